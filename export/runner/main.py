"""The command line of a bundle's ``run.py``."""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from .images import read_image, write_mask
from .network import HERE, Network, check_golden


def main() -> None:
    """Run the command line; report any error in one line."""
    try:
        run()
    except Exception as error:  # onnxruntime's errors share no base class
        message = " ".join(str(error).split())[:300]
        raise SystemExit(f"run.py: {type(error).__name__}: {message}") from error


def run() -> None:
    """Read the command line, then check or segment."""
    parser = argparse.ArgumentParser(description="Segment an image with the network in this folder.")
    parser.add_argument("image", nargs="?", type=Path, help=".npy or .ppm; others need opencv-python or pillow")
    parser.add_argument("--out", type=Path, default=Path("mask.png"), help="mask file: .png, .pgm or .npy")
    parser.add_argument("--check", action="store_true", help="check the network on its golden image")
    parser.add_argument("--provider", default="CPUExecutionProvider", help="of onnxruntime")
    parser.add_argument("--threads", type=int, default=0, help="0 leaves it to onnxruntime")
    arguments = parser.parse_args()
    if arguments.image is None and not arguments.check:
        parser.error("an image or --check is needed")
    network = Network(arguments.provider, arguments.threads)

    if arguments.check:
        result, needed = check_golden(network), network.facts.golden.needed
        verdict = "passed" if result.passed else "FAILED"
        sys.stdout.write(
            f"golden image: {verdict}, {100 * result.agreement:.3f} % of pixels agree "
            f"({100 * result.with_ties:.3f} % with ties; {100 * needed:.2f} % needed) by {network.ran_on}\n"
        )
        if not result.passed:
            sys.exit(6)

    if arguments.image is not None:
        mask = network.mask(read_image(arguments.image, network.preprocess.get("bits", 16)))
        write_mask(arguments.out, mask, json.loads((HERE / "palette.json").read_text()))
        shares = np.bincount(mask.ravel()) / mask.size
        labels = (HERE / "labels.txt").read_text().splitlines()
        labels += [f"class {k}" for k in range(len(labels), len(shares))]
        most = ", ".join(f"{labels[k]} {100 * shares[k]:.1f} %" for k in shares.argsort()[::-1][:3] if shares[k])
        sys.stdout.write(f"{arguments.out}: {mask.shape[0]}x{mask.shape[1]}, {most}\n")
