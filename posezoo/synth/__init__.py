"""Synthetic people and hands: skinned bodies, poses, scenes, depth and colour images with exact labels."""
