"""Writes clusters/prices/catalogue.csv out of a table of instances and a table of doubtful values.

    python deploy/catalogue/build.py FOLDER

FOLDER holds gpu_instances.csv (provider, region, instance_type, vcpus, memory_gib, gpu, gpu_count, gpu_memory_gib,
on_demand_usd_per_hour, spot_usd_per_hour, spot_max_usd_per_hour, source_commit) and doubtful.csv (provider, region,
instance_type, column, value, reason). Its facts are those of the public catalogue skypilot-org/skypilot-catalog. What
is doubtful is left empty, with the reason in the column `note`. The files of that catalogue are not dated: `as_of` is
the earliest day that each can be of.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

GPU_MODELS = {"A100": "A100-40GB", "H100": "H100-80GB", "H100-MEGA": "H100-80GB"}
"""The words of policies, where they are others."""
EARLIEST = {
    "aws": "2025-08-01",  # lists p5.4xlarge, and p5.48xlarge at the price that is in force since June 2025
    "gcp": "2025-02-01",  # lists a4-highgpu-8g
    "azure": "2025-01-01",  # the folder's README: about 2025 to 2026
}
LEFT_OUT = ("g4dn.metal", "g4dn.16xlarge", "g5.16xlarge", "g5.24xlarge", "g6.16xlarge", "g6.24xlarge", "g6e.16xlarge",
            "g6e.24xlarge", "Standard_NV36adms_A10_v5", "g2-standard-12", "g2-standard-16", "g2-standard-32",
            "n1-standard-64+8xV100")  # fmt: skip
"""Sizes that are seldom used for AI; left out to keep the file small."""
COLUMNS = (
    "provider", "region", "instance_type", "vcpus", "memory_gib", "gpu_model", "gpus", "gpu_memory_gib",
    "on_demand_usd_per_hour", "spot_min_usd_per_hour", "as_of", "source", "note",
)  # fmt: skip
PRICES = {"on_demand_usd_per_hour": "on_demand_usd_per_hour", "spot_usd_per_hour": "spot_min_usd_per_hour"}


def gpu_model(row: dict[str, str]) -> str:
    if row["gpu"] == "H100" and row["gpu_memory_gib"] == "94":
        return "H100-94GB"
    return GPU_MODELS.get(row["gpu"], row["gpu"])


def rows(instances: list[dict[str, str]], doubtful: list[dict[str, str]]) -> list[dict[str, str]]:
    """The catalogue's rows, sorted."""
    doubts = {(one["provider"], one["region"], one["instance_type"], one["column"]): one["reason"] for one in doubtful}
    made = []
    for row in instances:
        if row["provider"] not in EARLIEST or row["instance_type"] in LEFT_OUT:
            continue
        notes = []
        prices = {}
        for column, name in PRICES.items():
            doubt = doubts.get((row["provider"], row["region"], row["instance_type"], column))
            prices[name] = "" if doubt else row[column]
            if doubt and row[column]:
                notes.append(f"{name} {row[column]} left out: {doubt.split(':')[0]}")
        made.append(
            {
                "provider": row["provider"],
                "region": row["region"],
                "instance_type": row["instance_type"],
                "vcpus": row["vcpus"],
                "memory_gib": row["memory_gib"],
                "gpu_model": gpu_model(row),
                "gpus": row["gpu_count"],
                "gpu_memory_gib": row["gpu_memory_gib"],
                **prices,
                "as_of": EARLIEST[row["provider"]],
                "source": f"skypilot-catalog@{row['source_commit'][:12]}",
                "note": "; ".join(notes),
            }
        )
    return sorted(made, key=lambda one: (one["provider"], one["instance_type"], one["region"]))


def main(folder: Path, target: Path) -> None:
    def table(name: str) -> list[dict[str, str]]:
        with (folder / name).open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows(table("gpu_instances.csv"), table("doubtful.csv")))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(__file__).parents[2] / "clusters/prices/catalogue.csv")
