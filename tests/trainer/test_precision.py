"""What training computes in, and that all else computes in float32."""

import pytest

from trainer import config as config_lib
from trainer import precision, run_folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\nbugs\t:", True),
        ("flags : fpu amx_bf16", True),
        ("flags : fpu avx512f avx512_bf16_like", False),
        ("model name : avx512_bf16", False),
        ("", False),
    ],
)
def test_auto_asks_for_instructions(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert precision.multiplies_bfloat16(tmp_path / "cpuinfo") == expected
    assert not precision.multiplies_bfloat16(tmp_path / "nothing")


def test_auto_is_one_of_the_others():
    policy = "mixed_bfloat16" if precision.multiplies_bfloat16() else "float32"
    assert precision.policy("auto") == policy


def test_only_a_network_that_trains_is_of_half_precision(tiny_config, trained_run):
    config = config_lib.override(tiny_config, "precision", "bfloat16")
    _, info = run_folder.load(trained_run.folder)
    for to_train, expected in ((True, "bfloat16"), (False, "float32")):
        network = run_folder.build_network(config, info, to_train=to_train)
        kinds = {layer.compute_dtype for layer in network.backbone.layers}
        assert expected in kinds
        assert kinds <= {expected, "float32"}
