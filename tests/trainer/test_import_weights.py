"""Imported weights compute what they compute in PyTorch (``make test-torch``)."""

import importlib.util
import pickle

import numpy as np
import pytest
import tensorflow as tf

from model.backbones import IMAGENET_MEAN, IMAGENET_STD
from pipeline import dataset_info
from trainer import config as config_lib
from trainer import run_folder, torch_weights, training
from trainer.torch_weights import WeightsError

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="PyTorch is missing: tests/torch/requirements.txt could not be installed",
    ),
]
SEMSEG = config_lib.preset("semseg_pspnet50")
SMALL = [
    ("model.width_multiplier", 0.25), ("model.head_channels", 32), ("model.auxiliary_channels", 16),
]  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


@pytest.fixture(scope="module")
def reference(torch):
    from benchmarks import torch_pspnet

    return torch_pspnet


def randomize(torch, module, seed):
    """Random weights, and statistics near those of what runs through, so that nothing fades."""
    nn = torch.nn
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            if part.bias is not None:  # A classifier; its scores should be of a usual size.
                part.weight.data *= 0.1
                nn.init.normal_(part.bias)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.2)
            part.momentum = 1.0
    module.train()
    with torch.no_grad():
        module(torch.randn(4, 3, 65, 65))
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean += 0.2 * torch.randn_like(part.running_mean)
                part.running_var *= 0.5 + torch.rand_like(part.running_var)
                part.running_var += 0.1
    return module.eval()


@pytest.fixture(scope="module")
def semseg_file(torch, reference, tmp_path_factory):
    """A file as semseg's training leaves it, of a quarter of the width; and the network in it."""
    network = randomize(torch, reference.PSPNet(19, base=16, channels=32), seed=1)
    path = tmp_path_factory.mktemp("semseg") / "train_epoch_200.pth"
    state = {f"module.{name}": value for name, value in network.state_dict().items()}
    torch.save({"epoch": 200, "state_dict": state, "optimizer": {"lr": 0.1}}, path)
    return path, network


@pytest.fixture
def import_weights(run_command, records_dir, tmp_path):
    """Runs the real command; returns what came of it."""

    def run(path, *flags):
        return run_command(
            "trainer.import_weights", f"--weights={path}", f"--data_dir={records_dir}",
            f"--model_dir={tmp_path / 'run'}", *flags,
        )  # fmt: skip

    return run


@pytest.fixture
def build(records_dir):
    info = dataset_info.load_info(str(records_dir))

    def build(*changes, start=SEMSEG):
        return run_folder.build_network(config_lib.override_all(start, changes), info)

    return build


def random_pixels(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3)).astype(np.float32)


def run_torch(torch, network, pixels):
    normalized = (pixels - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    with torch.no_grad():
        outputs = network(torch.from_numpy(normalized.transpose(0, 3, 1, 2).copy()))
    return [output.numpy().transpose(0, 2, 3, 1) for output in outputs]


def assert_same_scores(torch, network, theirs):
    for size in [(65, 65), (97, 129)]:
        pixels = random_pixels(*size)
        ours = network.model(pixels, training=False)
        expected = run_torch(torch, theirs, pixels)
        for name, scores in zip(("logits", "auxiliary_logits"), expected, strict=True):
            difference = np.abs(ours[name] - scores).max()
            print(f"{name} {size}: {difference:.1e} of scores up to {np.abs(scores).max():.1f}")
            assert scores.shape[1:3] == size
            assert scores.std() > 0.5
            assert difference < 1e-3


def test_semsegs_network_gives_the_same_scores(torch, reference, build, tmp_path):
    theirs = randomize(torch, reference.PSPNet(19), seed=1)
    path = tmp_path / "state.pth"
    torch.save(theirs.state_dict(), path)
    network = build()
    filled = torch_weights.fill(network, torch_weights.read(str(path)))
    assert (filled.missing, filled.left_over, filled.misshapen) == ([], [], [])
    assert len(filled.matched) == len(network.model.weights)
    assert_same_scores(torch, network, theirs)


def test_the_run_of_an_import_is_trained_on(
    torch, semseg_file, import_weights, records_dir, tmp_path
):
    path, theirs = semseg_file
    run = tmp_path / "run"
    small = [f"--set={name}={value}" for name, value in SMALL]
    few = ["--set=steps=2", "--set=batch_size=2", "--set=data.crop_size=65", "--set=seed=3",
           "--set=pictures=0"]  # fmt: skip
    done = import_weights(path, "--preset=semseg_pspnet50", *small, *few)
    assert (done.returncode, done.stderr) == (0, "")
    for kind in run_folder.CHECKPOINTS:
        network = run_folder.build_network(*run_folder.load(str(run)))
        assert run_folder.restore_model(network.model, str(run), kind) == 0
    assert_same_scores(torch, network, theirs)

    config, info = run_folder.load(str(run))
    with pytest.raises(run_folder.RunError, match="holds a run already; name another --model_dir"):
        training.save_start(config, info, network, str(run))

    training.train(config, tf.distribute.get_strategy(), str(records_dir), str(run))
    assert run_folder.restore_model(network.model, str(run), "latest") == 2
    # The imported weights were measured before the first step, to be beaten by what follows.
    best = tf.train.load_checkpoint(run_folder.last_checkpoint(str(run), "best"))
    assert best.get_tensor("best_mean_iou/.ATTRIBUTES/VARIABLE_VALUE") > 0


@pytest.mark.parametrize(
    ("depth", "output_stride", "plan"),
    [(18, 32, "PLAIN"), (50, 32, "PLAIN"), (50, 8, "TORCHVISION_STRIDE_8")],
)
def test_torchvisions_resnet_gives_the_same_features(
    torch, reference, build, tmp_path, depth, output_stride, plan
):
    theirs = randomize(torch, reference.ResNet(depth, getattr(reference, plan)), seed=2)
    path = tmp_path / "resnet.pth"
    torch.save(theirs.state_dict(), path)
    network = build(
        ("model.backbone", f"resnet{depth}"), ("model.output_stride", output_stride),
        ("model.normalization", "imagenet"), start=config_lib.Config(),
    )  # fmt: skip
    heads = [weight.numpy() for weight in network.model.weights if "head" in weight.path]
    filled = torch_weights.fill(network, torch_weights.read(str(path)))
    assert filled.layout == "torchvision"
    assert (filled.missing, filled.left_over, filled.misshapen) == ([], [], [])
    assert len(filled.matched) == len(network.backbone.weights)
    after = [weight.numpy() for weight in network.model.weights if "head" in weight.path]
    assert all(map(np.array_equal, heads, after))

    pixels = random_pixels(97, 64)
    features = network.backbone(pixels, training=False)
    for ours, expected in zip(features, run_torch(torch, theirs, pixels), strict=True):
        difference = np.abs(ours - expected).max() / np.abs(expected).max()
        print(f"ResNet-{depth}, {ours.shape}: {difference:.1e} of the greatest feature")
        assert expected.std() > 0.05
        assert difference < 1e-4


def test_a_pickle_that_runs_code_is_refused(torch, import_weights, tmp_path):
    told = tmp_path / "told"

    class Malicious:
        def __reduce__(self):
            return open, (str(told), "w")

    torch.save({"state_dict": Malicious()}, tmp_path / "zip.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(Malicious(), protocol=2))
    for name in ("zip.pth", "plain.pth"):
        with pytest.raises(WeightsError, match=rf"{name}' .*could run any code"):
            torch_weights.read(str(tmp_path / name))
    done = import_weights(tmp_path / "zip.pth", "--preset=semseg_pspnet50")
    assert done.returncode == 1
    assert done.stderr.startswith("error: --weights ")
    assert len(done.stderr.splitlines()) == 1
    assert not told.exists()
    torch.load(tmp_path / "zip.pth", weights_only=False)
    assert told.exists()  # so the file would have done it


def test_files_that_are_no_state_dict(torch, semseg_file, tmp_path):
    whole = semseg_file[0].read_bytes()
    files = {
        "empty": b"", "text": b"weights", "picture": b"\xff\xd8\xff\xe0" * 100,
        "cut": whole[: len(whole) // 2], "header": whole[:100], "pickle": pickle.dumps(7),
    }  # fmt: skip
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=f"--weights '.*/{name}' "):
            torch_weights.read(str(tmp_path / name))
    for value in ([torch.zeros(1)], torch.zeros(1), {"epoch": 1}, {"state_dict": {}}):
        torch.save(value, tmp_path / "other")
        with pytest.raises(WeightsError, match="holds no state dict"):
            torch_weights.read(str(tmp_path / "other"))
    with pytest.raises(FileNotFoundError):
        torch_weights.read(str(tmp_path / "nowhere"))


def test_half_precision_is_read(torch, tmp_path):
    values = {"a": torch.tensor([0.5], dtype=torch.bfloat16), "count": torch.tensor(7)}
    torch.save(values, tmp_path / "half.pth")
    (array,) = torch_weights.read(str(tmp_path / "half.pth")).values()
    assert (array.dtype, array.tolist()) == (np.float32, [0.5])
