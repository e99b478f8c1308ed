"""Serves a page on this machine to drop a photo on and see what a SavedModel makes of it.

python -m trainer.demo --saved_model=RUN/export/N
"""

from __future__ import annotations

from absl import flags

from pipeline import cli

_SAVED_MODEL = flags.DEFINE_string("saved_model", None, "Folder of a SavedModel of trainer.export.")
_PORT = flags.DEFINE_integer(
    "port", 8000, "Port of 127.0.0.1; 0 for any that is free.", lower_bound=0, upper_bound=65535
)
_MAX_SIDE = flags.DEFINE_integer(
    "max_side", 1024, "Pixels; larger photos are made smaller before they are predicted.",
    lower_bound=32,
)  # fmt: skip


def main(_: list[str]) -> None:
    saved_model = cli.require(_SAVED_MODEL)
    from pipeline.startup import start_tensorflow

    start_tensorflow()
    from trainer import demo_app, prediction

    predict, palette = prediction.load_saved_model(saved_model)
    app = demo_app.create_app(predict, palette, saved_model, _MAX_SIDE.value)
    server, address = demo_app.listen(app, _PORT.value)
    print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)
    server.run()


if __name__ == "__main__":
    cli.run(main)
