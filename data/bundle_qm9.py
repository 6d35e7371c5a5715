"""Makes the bundled sample of QM9 and the split of the whole of it; run once, kept so that anybody can do it again.

    python data/bundle_qm9.py PACKAGE_DATA TEST_IDS

PACKAGE_DATA is the folder of CSV files inside the package qm9pack 1.0.3, TEST_IDS an npz whose ``qm9`` holds the 0-based rows of the
published test set of GDSS among the 133,885 molecules of GDB-9. Written are, beside the other samples: 6,000 training and 1,500 test
molecules as ``qm9-sample.csv.xz`` (gdb_index, smiles, split), drawn without replacement by a generator of seed 0, in the order of their
index; and ``qm9-test.bits.xz``, a bit a molecule of GDB-9 (index 1 first, highest bit first), set for the test.
"""

import lzma
import sys
from pathlib import Path

import numpy as np
import pandas as pd

OUT = Path(__file__).parent / "unstir_data" / "samples" / "molecules"
ALL, TRAIN, TEST = 133_885, 6_000, 1_500


def packed(text: bytes) -> bytes:
    """The same bytes give the same file."""
    return lzma.compress(text, preset=9 | lzma.PRESET_EXTREME)


def main(package: Path, ids: Path) -> None:
    """Write both files.

    Args:
        package: folder of the CSV files.
        ids: npz of the test rows.
    """
    parts = [pd.read_csv(package / f"qm9_part{n}.csv", usecols=["Index", "SMILES"]) for n in (1, 2, 3)]
    table = pd.concat(parts).sort_values("Index", kind="stable")
    with np.load(ids) as file:
        test = np.zeros(ALL, dtype=bool)
        test[file["qm9"]] = True
    is_test = test[table["Index"].to_numpy() - 1]
    rng = np.random.default_rng(0)
    picks = [rng.choice(np.flatnonzero(side), count, replace=False) for side, count in ((~is_test, TRAIN), (is_test, TEST))]
    rows = np.sort(np.concatenate(picks))
    drawn = table.iloc[rows].assign(split=np.where(is_test[rows], "test", "train"))
    text = drawn.rename(columns={"Index": "gdb_index", "SMILES": "smiles"}).to_csv(index=False, lineterminator="\n")
    (OUT / "qm9-sample.csv.xz").write_bytes(packed(text.encode()))
    (OUT / "qm9-test.bits.xz").write_bytes(packed(np.packbits(test).tobytes()))
    print(f"{len(table)} molecules, {is_test.sum()} of the test set among them")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
