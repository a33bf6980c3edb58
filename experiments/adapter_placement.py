"""Where should an adapter sit: behind a lower or an upper layer, at the output, or at several places with less each?

python experiments/adapter_placement.py --base runs/nano --data DATA --work runs/adapters
"""

from __future__ import annotations

from adapter_study import System, options, study

from linnet.export.qwen3_asr_adapter import OUTPUT, AdapterConfig

LOWER, UPPER = "encoder.2", "encoder.5"
WIDTH = 48  # split over three sites: 16 each, the same parameters in all


def main() -> None:
    args = options(__doc__, "results/adapter_placement.json")
    places = {"lower layer": (LOWER,), "last layer": (UPPER,), "output": (OUTPUT,), "all three": (LOWER, UPPER, OUTPUT)}
    systems = [System(name, AdapterConfig(mode="mlp", bottleneck=WIDTH // len(sites), sites=sites), steps=400,
                      control=None if sites == (OUTPUT,) else "output")
               for name, sites in places.items()]  # fmt: skip
    study(args, systems, experiment="adapter_placement")


if __name__ == "__main__":
    main()
