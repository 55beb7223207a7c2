"""Make the Python environments of tools that cannot live beside current packages. Standard library alone.

    python converters/environments.py                # which there are, and which are made
    python converters/environments.py myriad         # make one (once), print its Python

Each `environments/NAME.txt` pins packages; its first lines say what it is for, which Python it needs (`# python: 3.8`),
which Debian packages hold libraries that it links (fetched without administrator's rights) and what must run in it.
Environments are cached in `posezoo/environments` of the user's cache folder (or below POSEZOO_CACHE), by the hash of
their file: a changed file makes a new one. A run that is interrupted leaves nothing behind.
"""

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "environments"


class EnvironmentMissing(Exception):
    """What is missing, and what to do."""


def names():
    """Return the environments that there are files for."""
    return sorted(path.stem for path in FOLDER.glob("*.txt"))


def requirements(name):
    """Return the file of an environment.

    Raises:
        EnvironmentMissing: There is none.
    """
    path = FOLDER / (name + ".txt")
    if not path.is_file():
        raise EnvironmentMissing(f"no environment '{name}'; there are {', '.join(names())}")
    return path


def fact(name, key, default=""):
    """Return what a file says of itself: `# python: 3.8` -> `3.8` for the key `python`."""
    found = re.search(rf"^# {re.escape(key)}: (.*)$", requirements(name).read_text(), re.MULTILINE)
    return found.group(1).strip() if found else default


def cache():
    """Return the folder of all environments."""
    own = os.environ.get("POSEZOO_CACHE")
    base = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "posezoo"
    return base / "environments"


def place(name):
    """Return the folder of an environment, whether it is made or not."""
    return cache() / f"{name}-{hashlib.sha256(requirements(name).read_bytes()).hexdigest()[:12]}"


def python_of(name):
    """Return the Python of an environment that is made, or None."""
    python = place(name) / "bin" / "python"
    return python if python.exists() else None


def variables(name, folder=None):
    """Return the environment variables for programs of an environment: its own libraries are found."""
    libraries = [str(path) for path in sorted(((folder or place(name)) / "debian").glob("**/*-linux-gnu"))]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    if libraries:
        clean["LD_LIBRARY_PATH"] = ":".join([*libraries, *filter(None, [os.environ.get("LD_LIBRARY_PATH")])])
    return clean


def make(name, say=print):
    """Make an environment unless it is made.

    Args:
        name: Its name.
        say: Called with a line about what is done.

    Returns:
        Its Python.

    Raises:
        EnvironmentMissing: No Python of the version needed, or the packages cannot be installed.
    """
    made = python_of(name)
    if made:
        return made
    interpreter = find_python(fact(name, "python"))
    cache().mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=cache(), prefix=f".{name}."))
    try:
        say(f"making the environment '{name}' ({fact(name, 'what')})")
        pins = [line for line in requirements(name).read_text().splitlines() if line and not line.startswith("#")]
        run([interpreter, "-m", "venv", *([] if pins else ["--without-pip"]), str(work)])
        python = work / "bin" / "python"
        if pins:
            install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements(name))]
            run([str(python), *install])
        for package in fact(name, "debian").split():
            fetch_debian(package, work / "debian")
        run([str(python), "-c", fact(name, "check", "pass")], env=variables(name, work))
        try:
            work.rename(place(name))
        except OSError:  # another process was quicker
            if not python_of(name):
                raise
    finally:
        shutil.rmtree(str(work), ignore_errors=True)
    return python_of(name)


def find_python(version):
    """Return an interpreter of a version such as `3.8`.

    Looked for: POSEZOO_PYTHON_3_8, `python3.8` on the path, pyenv's versions, and uv, which can fetch one.

    Raises:
        EnvironmentMissing: None is found.
    """
    variable = "POSEZOO_PYTHON_" + version.replace(".", "_")
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [os.environ.get(variable), shutil.which("python" + version)]
    candidates += [str(path) for path in sorted(pyenv.glob(version + ".*/bin/python"), reverse=True)]
    for candidate in filter(None, candidates):
        if version_of(candidate) == version:
            return candidate
    if shutil.which("uv"):
        for command in (["uv", "python", "find", version], ["uv", "python", "install", version]):
            subprocess.run(command, capture_output=True)
            found = subprocess.run(["uv", "python", "find", version], capture_output=True, text=True).stdout.strip()
            if found and version_of(found) == version:
                return found
    raise EnvironmentMissing(
        f"no Python {version} found; install it (pyenv install {version}, or install uv, which fetches it) or name one "
        f"with {variable}=PATH"
    )


def version_of(interpreter):
    """Return an interpreter's version such as `3.8`, or an empty text where it does not run."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.check_output([interpreter, "-c", code], stderr=subprocess.DEVNULL).decode().strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def fetch_debian(package, target):
    """Unpack a Debian package's files below a folder; a system without apt-get must have the library itself."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return
    with tempfile.TemporaryDirectory() as work:
        got = subprocess.run(["apt-get", "download", "-qq", package], cwd=work, capture_output=True)
        for file in Path(work).glob("*.deb") if got.returncode == 0 else ():
            target.mkdir(parents=True, exist_ok=True)
            run(["dpkg-deb", "-x", str(file), str(target)])


def run(command, env=None):
    """Run a command; its last words are the message where it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise EnvironmentMissing(f"this failed:\n  {' '.join(command)}\n{last}")


def main(argv=None):
    """List environments, or make one and print its Python."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", nargs="?", help="which to make (default: list them)")
    parser.add_argument("--find", action="store_true", help="print the Python only if the environment is made")
    arguments = parser.parse_args(argv)
    try:
        if arguments.name is None:
            for name in names():
                print(f"{name:16} {'made' if python_of(name) else '-':8} {fact(name, 'what')}")
        elif arguments.find:
            found = python_of(arguments.name)
            if not found:
                raise EnvironmentMissing(f"not made yet: python {Path(__file__).name} {arguments.name}")
            print(found)
        else:
            print(make(arguments.name, say=lambda line: print(line, file=sys.stderr)))
    except EnvironmentMissing as error:
        print(f"environments: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
