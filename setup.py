"""Packages, found by themselves; all else stands in setup.cfg, which cannot add one to a search."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["vitlit", "vitlit.*"]), "vitlit.configs"])
