"""Do adapters make a frozen recogniser hear better in noise, and does mixing frequencies matter?

    python experiments/noise_robustness.py --base runs/nano --data DATA --work runs/adapters

All modes with one parameter budget at the encoder's output, trained by feature matching, three seeds each; tested on
clean speech (the cost) and in held-out noises. `linear` is the matched control of the Fourier modes, `mlp` that of
`gate`, `lora` the outside control, spectral subtraction the one that learns nothing.
"""

from __future__ import annotations

from adapter_study import System, options, study

from linnet.export.qwen3_asr_adapter import AdapterConfig

BOTTLENECK = 64


def main() -> None:
    args = options(__doc__, "results/noise_robustness.json")
    controls = {"linear": None, "mlp": None, "fnet": "linear", "hartley": "linear", "gate": "mlp", "lora": "linear"}
    systems = [
        System(mode, AdapterConfig(mode=mode, bottleneck=BOTTLENECK), control=control)
        for mode, control in controls.items()
    ]
    published = AdapterConfig(mode="identity", bottleneck=BOTTLENECK, norm="post")
    systems.append(System("published", published, control="linear"))
    study(args, systems, subtraction=True, experiment="noise_robustness")


if __name__ == "__main__":
    main()
