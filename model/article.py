"""The article's "simple PSPNet": full resolution throughout, with colours or classes as output."""

from __future__ import annotations

from typing import Any

import keras

from model.layers import BatchNormalization, Conv2D, ResizeLike


def _conv_unit(
    x: Any, filters: int, kernel_size: int, name: str, *, rate: int = 1, initializer: str
) -> Any:
    x = Conv2D(
        filters,
        kernel_size,
        dilation_rate=rate,
        padding="same",
        kernel_initializer=initializer,
        name=name,
    )(x)
    return BatchNormalization(name=f"{name}_bn")(x)


def _residual_block(x: Any, filters: tuple[int, int, int], name: str) -> Any:
    """1x1, 3x3 dilated by 2, 1x1, added to a 3x3 convolution of the input."""
    skip = _conv_unit(x, filters[2], 3, f"{name}_skip", initializer="glorot_uniform")
    x = _conv_unit(x, filters[0], 1, f"{name}_conv1", initializer="he_normal")
    x = keras.layers.LeakyReLU(0.2, name=f"{name}_conv1_relu")(x)
    x = _conv_unit(x, filters[1], 3, f"{name}_conv2", rate=2, initializer="he_normal")
    x = keras.layers.LeakyReLU(0.2, name=f"{name}_conv2_relu")(x)
    x = _conv_unit(x, filters[2], 1, f"{name}_conv3", initializer="he_normal")
    x = keras.layers.Add(name=f"{name}_add")([x, skip])
    return keras.layers.ReLU(name=f"{name}_relu")(x)


def _pyramid(features: Any) -> Any:
    """The 256 features beside 64 of each of four average poolings, 512 in all."""
    pools = {
        "pool_all": keras.layers.GlobalAveragePooling2D(keepdims=True, name="pool_all"),
        # "same", so that the last window of an odd size is kept; it averages what it covers.
        **{
            f"pool{window}": keras.layers.AveragePooling2D(
                window, padding="same", name=f"pool{window}"
            )
            for window in (2, 4, 8)
        },
    }
    branches = [features]
    for name, pool in pools.items():
        x = keras.layers.Conv2D(64, 1, name=f"{name}_conv")(pool(features))
        branches.append(ResizeLike(name=f"{name}_resize")([x, features]))
    return keras.layers.Concatenate(name="pyramid_concat")(branches)


def _network(channels: int, head: str) -> tuple[Any, Any]:
    """Pixels, and what the last convolution, `head`, makes of them: [B, H, W, channels]."""
    pixels = keras.Input([None, None, 3], dtype="float32", name="pixels")
    x = keras.layers.Rescaling(1 / 255, dtype="float32", name="normalize")(pixels)
    x = _residual_block(x, (32, 32, 64), "block1")
    x = _residual_block(x, (64, 64, 128), "block2")
    x = _residual_block(x, (128, 128, 256), "block3")
    return pixels, _conv_unit(_pyramid(x), channels, 3, head, initializer="glorot_uniform")


def article() -> keras.Model:
    """Builds the article's network as it was published, for pixels of any size.

    It is kept as the starting point to compare with: nothing is strided (42 GMAC for a picture of
    256x256), its pyramid pools windows of 2, 4 and 8 pixels, not regions of the picture, and it
    regresses the mask's colours in place of classes. One thing differs: the published code is
    bound to 256x256, here features are resized to the size that the picture has.

    Returns:
      A model from RGB pixels in 0 to 255, uint8 or float32 [B, H, W, 3], to a dict of ``colors``,
      float32 [B, H, W, 3] RGB in 0 to 1.

    Reference: the code in
    https://ztlevi.gitbook.io/ml-101/computer-vision/segmentation/pspnet.
    """
    pixels, x = _network(3, "head")
    colors = keras.layers.Activation("sigmoid", dtype="float32", name="colors")(x)
    return keras.Model(pixels, {"colors": colors}, name="article")


def article_classes(num_classes: int) -> keras.Model:
    """Builds the article's network with a score for each class in place of the three colours.

    Args:
      num_classes: Number of classes, K.

    Returns:
      A model from RGB pixels in 0 to 255, uint8 or float32 [B, H, W, 3], to a dict of ``logits``,
      float32 [B, H, W, K].

    Raises:
      ValueError: If ``num_classes`` is below 1.
    """
    if num_classes < 1:
        raise ValueError(f"`num_classes` must be 1 or more. Received: {num_classes}")
    pixels, x = _network(num_classes, "head_classes")
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(pixels, {"logits": logits}, name="article_classes")
