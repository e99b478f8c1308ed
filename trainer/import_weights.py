"""Makes a run of weights that were trained with PyTorch; it is trained on, exported as any other.

python -m trainer.import_weights --preset=semseg_pspnet50 --weights=FILE --data_dir=RECORDS \
  --model_dir=RUN

FILE is a state dict of hszhao/semseg's PSPNet, or of a ResNet of torchvision, which fills the
backbone of any network. It needs PyTorch: pip install torch.
"""

from __future__ import annotations

import sys

from absl import flags

from pipeline import cli, dataset_info
from pipeline.errors import UserError
from trainer import config_flags, torch_weights

flags.adopt_module_key_flags(config_flags)  # --help shows them too.
_WEIGHTS = flags.DEFINE_string("weights", None, "PyTorch's file, such as train_epoch_200.pth.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder that pipeline.preprocess wrote, with the classes of the weights."
)
_MODEL_DIR = flags.DEFINE_string("model_dir", None, "Folder of the run to make.")


def main(_: list[str]) -> None:
    path = cli.require(_WEIGHTS)
    data_dir, model_dir = cli.require(_DATA_DIR), cli.require(_MODEL_DIR)
    config = config_flags.configuration()
    for name, value in (
        ("model.backbone_weights", config.model.backbone_weights),
        ("initial_model", config.initial_model),
    ):
        if value:
            raise UserError(
                f"--weights and {name} both fill the backbone; give one of them. "
                f"Received: {name}={value!r}."
            )
    info = dataset_info.load_info(data_dir).kept_in(data_dir)
    for split in (config.train_split, config.validation_split):
        info.split(split)
    state = torch_weights.read(path)
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import run_folder, training

    network = run_folder.build_network(config, info)
    filled = torch_weights.fill(network, state)
    _tell(filled, torch_weights.trained_otherwise(filled.layout, config.model))
    training.save_start(config, info, network, model_dir)
    print(
        f"Run: {model_dir}, with {len(filled.matched)} of {path!r}'s {len(state)} arrays. Go on "
        f"with trainer.evaluate, trainer.export, or trainer.task --config={model_dir}/config.json."
    )


def _tell(filled: torch_weights.Filled, trained_with: list[str]) -> None:
    """What a person should know before they rely on the run."""
    for what, names in (
        ("stay random, as the file does not have them", filled.missing),
        ("of the file have no place in the network", filled.left_over),
        ("have another shape in the file than in the network, and stay random", filled.misshapen),
        ("were set when the weights were trained", trained_with),
    ):
        if names:
            print(f"{len(names)} {what}: {', '.join(names)}", file=sys.stderr)
    if filled.layout == "torchvision":
        print("Only the backbone was filled: the heads stay random.", file=sys.stderr)


if __name__ == "__main__":
    cli.run(main)
