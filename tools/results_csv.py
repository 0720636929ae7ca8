"""Write the record of each data set, experiments/results/DATA.csv, from results.json of its runs.

    python tools/results_csv.py

The tables of the documentation are printed from these files: `graphfsl reproduce --table DATA`.
"""

from __future__ import annotations

from graphfsl.io.package_data import experiments_dir
from graphfsl.report.results_csv import write_records

if __name__ == "__main__":
    for file in write_records(experiments_dir() / "results"):
        print(file)
