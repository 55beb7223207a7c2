"""From a picture to poses: reading, cropping, running, decoding, drawing."""
