"""What goes into the wheel; everything else about the package is in pyproject.toml.

Experiment files and class lists live at the root of the repository, where people look for them, and
travel inside the package, where an installed graphfsl finds them (graphfsl/io/package_data.py knows
both places).
"""

from setuptools import find_namespace_packages, setup

TRAVEL = {"graphfsl.experiments": "experiments", "graphfsl.data_lists": "data"}

setup(
    packages=[
        *find_namespace_packages(include=["graphfsl", "graphfsl.*"], exclude=["*__pycache__*"]),
        *TRAVEL,
    ],
    package_dir=TRAVEL,
    include_package_data=False,
    package_data={
        "graphfsl": ["py.typed", "data/sets/*.json", "apply/annotate/static/*"],
        "graphfsl.experiments": ["**/*.yaml"],
        "graphfsl.data_lists": ["*.json", "sessions/*.json"],
    },
)
