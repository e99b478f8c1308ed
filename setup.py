"""For Beam's --setup_file; everything else about the package stands in pyproject.toml."""

from setuptools import setup

setup()
