"""Adds what pyproject.toml cannot say: configs/ is shipped as the data of the package
iaunet_d2.configs.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["iaunet_d2", "iaunet_d2.*"]), "iaunet_d2.configs"],
    package_dir={"iaunet_d2.configs": "configs"},
    package_data={"iaunet_d2": ["py.typed"], "iaunet_d2.configs": ["*.yaml", "*/*.yaml"]},
)
