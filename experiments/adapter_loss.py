"""Feature matching against cross-entropy: the same adapter, clips, noise and number of updates, another teacher.

python experiments/adapter_loss.py --base runs/nano --data DATA --work runs/adapters
"""

from __future__ import annotations

from adapter_study import System, options, study

from linnet.export.qwen3_asr_adapter import AdapterConfig


def main() -> None:
    args = options(__doc__, "results/adapter_loss.json")
    adapter = AdapterConfig(mode="mlp", bottleneck=64)
    systems = [System(loss, adapter, loss=loss, steps=200, control=None if loss == "feature" else "feature")
               for loss in ("feature", "ce", "both")]  # fmt: skip
    study(args, systems, experiment="adapter_loss")


if __name__ == "__main__":
    main()
