"""Says what is in a records folder, and checks that its shards are as they were written.

python -m pipeline.inspect --data_dir=RECORDS
"""

from __future__ import annotations

from absl import flags

from pipeline import cli, dataset_info, report
from pipeline.dataset_info import DatasetError

_DATA_DIR = flags.DEFINE_string("data_dir", None, "Records folder to look at.", allow_override=True)


def main(_: list[str]) -> None:
    """The command; it takes flags only."""
    data_dir = cli.require(_DATA_DIR)
    findings = report.load_findings(data_dir)
    print(report.as_text(findings))
    if damaged := dataset_info.damaged_shards(data_dir):
        raise DatasetError(
            f"Damaged, by their checksums: {', '.join(damaged)} in {data_dir!r}. Restore them, or "
            "write the records again with pipeline.preprocess --overwrite."
        )
    count = sum(len(split.shards) for split in findings.info.splits.values())
    print(f"All {count:,} shards are as they were written, by their SHA-256 checksums.")


if __name__ == "__main__":
    cli.run(main)
