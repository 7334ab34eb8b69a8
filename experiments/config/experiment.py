# SPDX-License-Identifier: Apache-2.0
"""One experiment: what is trained, on what, and how."""

import dataclasses
import math
from typing import Literal

from experiments.config.fields import config
from experiments.config.ranges import (
    check_name_and_seed,
    require,
    require_at_least,
    require_below_limit,
)

USED_BY = {
    "hidden": ("dense", "conv"),
    "depth": ("plain",),
    "activation": ("dense", "conv", "plain"),
    "placement": ("dense", "conv"),
    "dropout": ("dense", "conv"),
    "step_statistics": ("step_gru",),
    "convolution": ("conv",),
    "width": ("resnet18", "resnet34", "resnet50", "resnet101"),
}
"""The fields of `ModelConfig` that only some networks have."""
MOST_THREADS = 256
"""More threads take minutes to start, and read no faster."""
MOST_LAYERS = 1000
"""To compile more takes hours."""
DEFAULT_STEPS = 600
"""The length of a run whose config gives none."""


@config("data.")
class DataConfig:
    """The examples."""

    name: Literal[
        "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "image_folder",
        "tfds",
    ] = "digits"  # fmt: skip
    """digits: scikit-learn's, 8x8, shipped with it. mnist, fashion_mnist: the four idx
    files, packed with gzip or not, grey. cifar10, cifar100: the binary or the Python
    version, in color. Bytes are read as they are, and files of other types, sizes or
    labels are refused.

    image_folder: train/ and val/ (or test/), each with a folder for each class, with
    images in it or below. Left out and listed before training: hidden files and
    folders, files whose names are not those of images, pipes and devices, and links to
    folders or to files elsewhere.

    tfds: ArrayRecord files prepared by TensorFlow Datasets
    (`file_format="array_record"`), the folder of one version; needs the extra `tfds`,
    not TensorFlow. Read are the features `image` and `label` of the splits train and
    test, or validation, or val. Left out and listed: other splits, and test splits
    without labels (-1 in each example).

    Images of these two are JPEG, PNG, BMP, WebP or PPM, by their content. They are
    turned upright by their EXIF data, and become RGB of 8 bits, for tfds the 1, 3 or 4
    channels in its features.json: 16-bit grey is divided by 257, of 16-bit colors the
    upper 8 bits are read, alpha is dropped unless there are 4 channels, and of an
    animation the first frame is read. Up to 1000 images of each part are inspected
    before training, and what is dropped of them is listed."""
    path: str | None = None
    """The folder of the files; not for digits. For mnist, fashion_mnist, cifar10 and
    cifar100 they may be in a folder below it that is not hidden. fashion_mnist needs
    none where Debian's package `dataset-fashion-mnist` is installed."""
    batch_size: int = 64
    """Examples per step, over all devices and processes, at least 1."""
    num_train: int | None = None
    """Number of training examples, the first ones, at least 1; None: all."""
    num_test: int | None = None
    """Number of test examples, the first ones, at least 1; None: all."""
    num_empty: int = 0
    """Rows at the end of each training batch that are left empty, as padding, at least
    0 and fewer than batch_size."""
    image_size: int | None = None
    """Height and width, at least 8: for image_folder, and for tfds where the images
    differ in size. In training a random crop is resized to it, in evaluation the middle
    of the image."""
    downsample: int = 1
    """Factor by which height and width shrink, at least 1 and a divisor of both: a
    pixel is the mean of a square of this size. Not for image_folder and tfds."""
    crop_padding: int = 0
    """Augmentation: pad each training image by this many pixels and crop it at a random
    place, at least 0 and fewer than its height and its width."""
    flip: bool = False
    """Augmentation: mirror half of the training images, chosen at random."""
    num_threads: int = 2
    """Threads of each process that read and decode ahead of the step, in [1, 256]."""

    def __post_init__(self):
        """Checks the ranges."""
        least = ("batch_size", "num_train", "num_test", "downsample", "num_threads")
        require_at_least(self, "data.", **dict.fromkeys(least, 1), crop_padding=0)
        rule, threads = f"at most {MOST_THREADS}", self.num_threads
        require(threads <= MOST_THREADS, "data.num_threads", rule, threads)
        empty, size = self.num_empty, self.batch_size
        rule = f"at least 0 and less than data.batch_size, {size}"
        require(0 <= empty < size, "data.num_empty", rule, empty)
        if self.name == "digits":
            rule, fits = "left out for digits", self.path is None
        else:
            rule = f"the folder of the {self.name} files"
            fits = self.path is not None or self.name == "fashion_mnist"
        require(fits, "data.path", rule, self.path)
        size, fix = self.image_size, ""
        if self.name == "image_folder":
            rule, fits = ">= 8 for image_folder", size is not None and size >= 8
        elif self.name == "tfds":
            rule, fits = ">= 8", size is None or size >= 8
        else:
            rule, fits = f"left out for {self.name}", size is None
            fix = "it applies to image_folder and tfds only"
        require(fits, "data.image_size", rule, size, fix=fix)
        rule, fix = f"1 for {self.name}", "data.image_size sets the size of its images"
        fits = self.downsample == 1 or self.name not in ("image_folder", "tfds")
        require(fits, "data.downsample", rule, self.downsample, fix=fix)


@config("model.")
class ModelConfig:
    """The network."""

    name: Literal[
        "dense", "conv", "plain", "gru", "lstm", "step_gru",
        "resnet18", "resnet34", "resnet50", "resnet101",
    ] = "dense"  # fmt: skip
    """dense: hidden layers of 128 and 64 units; conv: one of 3x3 with 32 channels;
    plain: `depth` layers of 32 units. gru, lstm: read an image row by row, 64 units,
    norm before and after the cell; step_gru: 32 units, norm within the cell at every
    step. resnet...: v1.5, with the stem of CIFAR up to 64 pixels, that of ImageNet
    above."""
    hidden: tuple[int, ...] | None = None
    """Units of each hidden layer of dense, channels of each of conv; None: as above."""
    depth: int = 2
    """Hidden layers of plain, in [2, 1000]."""
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"
    """Activation of dense, conv and plain."""
    placement: Literal["before", "after"] = "before"
    """Whether the norm of dense and conv comes before or after the activation."""
    dropout: float = 0.0
    """Dropout rate of the hidden units of dense and conv, in [0, 1)."""
    init_scale: float = 1.0
    """Factor on the initial kernels, > 0."""
    step_statistics: bool = True
    """Whether the norm of step_gru has separate statistics for each step."""
    convolution: Literal["xla", "patches"] = "xla"
    """How conv is computed: by XLA's convolution, or by a product of patches and
    kernel, which is faster for small images on a CPU."""
    width: int = 64
    """Channels of the first stage of resnet..., at least 1; each next one doubles
    them."""

    def __post_init__(self):
        """Checks the ranges."""
        hidden = self.hidden
        fits = hidden is None or bool(hidden and min(hidden) >= 1)
        rule = "None or at least one number, each >= 1"
        require(fits, "model.hidden", rule, hidden)
        require_below_limit("model.hidden", hidden)
        rule, num = f"at most {MOST_LAYERS} numbers", len(hidden or ())
        require(num <= MOST_LAYERS, "model.hidden", rule, f"{num} numbers")
        require_at_least(self, "model.", depth=2, width=1)
        require_below_limit("model.width", (self.width,))
        rule, depth = f"at most {MOST_LAYERS}", self.depth
        require(depth <= MOST_LAYERS, "model.depth", rule, depth)
        require(0 <= self.dropout < 1, "model.dropout", "in [0, 1)", self.dropout)
        scale = self.init_scale
        require(0 < scale < math.inf, "model.init_scale", "> 0", scale)
        for field in dataclasses.fields(self):
            *others, last = USED_BY.get(field.name, (self.name,))
            value = getattr(self, field.name)
            fits = self.name in (*others, last) or value == field.default
            rule, some = f"left out for {self.name}", ", ".join(others)
            fix = f"it applies to {f'{some} and {last}' if some else last} only"
            require(fits, f"model.{field.name}", rule, value, fix=fix)


@config("norm.")
class NormConfig:
    """The normalization, the same in every place of the network."""

    kind: Literal["batch", "renorm", "group", "layer", "instance", "none"] = "batch"
    """batch, renorm: jaxbn's BatchNorm, BatchRenorm; group, layer: Flax's GroupNorm,
    LayerNorm; instance: GroupNorm of single channels; none: no normalization."""
    momentum: float = 0.9
    """Momentum of the running statistics, in [0, 1): new = momentum * old +
    (1 - momentum) * batch; PyTorch's momentum is 1 minus this."""
    epsilon: float = 1e-5
    """Added to the variance, > 0."""
    virtual_batch_size: int | None = None
    """Ghost batch norm: groups of this many examples, at least 1 and a divisor of
    data.batch_size, are normalized by their own statistics. None: the whole batch."""
    debias: bool = False
    """Leave the initial 0 and 1 out of the running statistics."""
    group_size: int = 16
    """Channels in a group of GroupNorm, at least 1; a divisor of all channels."""
    affine: Literal["both", "scale", "bias", "none", "fixed"] = "both"
    """What is learned after normalization; fixed: a constant scale of `fixed_scale`,
    for batch and renorm."""
    fixed_scale: float = 0.1
    """The scale of `affine` fixed, > 0."""
    unbiased: bool = False
    """Running variance with Bessel's correction, as in PyTorch."""
    ignore_mask: bool = False
    """Count padding as values, as a batch norm without masks does; to show the harm."""
    noise: float = 0.0
    """Strength of the noise after the norm in training, at least 0; for experiments on
    the shift of distributions, with batch and renorm."""

    def __post_init__(self):
        """Checks the ranges."""
        require(0 <= self.momentum < 1, "norm.momentum", "in [0, 1)", self.momentum)
        require(0 < self.epsilon < math.inf, "norm.epsilon", "> 0", self.epsilon)
        require_at_least(self, "norm.", virtual_batch_size=1, group_size=1)
        scale, noise, affine = self.fixed_scale, self.noise, self.affine
        require(0 < scale < math.inf, "norm.fixed_scale", "> 0", scale)
        require(0 <= noise < math.inf, "norm.noise", ">= 0", noise)
        if self.kind not in ("batch", "renorm"):
            of_kind, fix = f"for kind {self.kind}", "applies to batch and renorm only"
            require(noise == 0, "norm.noise", f"0 {of_kind}", noise, fix=f"noise {fix}")
            rule, fix = f"both, scale, bias or none {of_kind}", f"fixed {fix}"
            require(affine != "fixed", "norm.affine", rule, affine, fix=fix)


@config("optimizer.")
class OptimizerConfig:
    """The optimizer and its schedule."""

    name: Literal["sgd", "momentum", "adam", "adamw", "rmsprop", "lars"] = "sgd"
    """sgd; momentum: SGD with Nesterov momentum 0.9; adam; adamw; rmsprop; lars."""
    learning_rate: float = 0.1
    """Peak learning rate, > 0."""
    schedule: Literal["constant", "cosine"] = "constant"
    """cosine: falls to 0 at the last step."""
    warmup_steps: int = 0
    """Steps in which the learning rate rises from 0, at least 0."""
    weight_decay: float = 0.0
    """Weight decay of kernels, not of scales and biases, at least 0. sgd and momentum
    add it to the gradient, adamw and lars apply it in their own way; adam and rmsprop
    have none."""
    accumulate_steps: int = 1
    """Batches whose gradients are averaged into one update, at least 1. The update
    moves the running statistics too, once, by the moments of all these batches; each
    batch is normalized by its own. What the last step leaves of an update is lost."""
    clip_norm: float | None = None
    """Largest norm of an update's gradient, over all parameters together, > 0: a longer
    one is scaled down to it, before weight decay and optimizer. None: any norm."""

    def __post_init__(self):
        """Checks the ranges."""
        rate, decay, clip = self.learning_rate, self.weight_decay, self.clip_norm
        require(0 < rate < math.inf, "optimizer.learning_rate", "> 0", rate)
        fits = clip is None or 0 < clip < math.inf
        require(fits, "optimizer.clip_norm", "> 0", clip)
        require_at_least(self, "optimizer.", warmup_steps=0, accumulate_steps=1)
        require(0 <= decay < math.inf, "optimizer.weight_decay", ">= 0", decay)
        allowed = decay == 0 or self.name not in ("adam", "rmsprop")
        rule, fix = f"0 for {self.name}", "adamw has weight decay"
        require(allowed, "optimizer.weight_decay", rule, decay, fix=fix)


@config("train.")
class TrainConfig:
    """The training loop."""

    num_steps: int | None = None
    """Total number of steps, at least 1. None: 600, unless num_epochs is given."""
    num_epochs: float | None = None
    """Total number of passes over the training examples, > 0, in place of num_steps:
    rounded to whole steps, at least 1. The last step of a pass may have fewer examples.
    """
    eval_every: int = 10
    """Steps from one evaluation on the test set to the next, at least 1."""
    log_every: int = 10
    """Steps from one record of training metrics to the next, at least 1."""
    checkpoint_every: int = 200
    """Steps from one checkpoint to the next, at least 1; the last step always has
    one."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints are kept, at least 1; the best by test
    accuracy is kept too."""
    label_smoothing: float = 0.0
    """Fraction of each label that is spread over all classes, in [0, 1)."""
    average_decay: float | None = None
    """Keeps an average of the weights, in (0, 1): average = average_decay * average +
    (1 - average_decay) * weights after each step. It is evaluated as often as the
    weights are, by statistics of its own. None: no average."""
    average_examples: int | None = 2048
    """The training examples, chosen at random once, from which the statistics of the
    averaged weights are estimated, layer after layer, at least 1; None: all. An
    evaluation runs as many forward passes over them as the network has norms."""
    patience: int | None = None
    """Early stopping: how many evaluations in a row may have no better test accuracy
    than the best before them, at least 1; training ends after the last of these. The
    best test accuracy is then chosen on the test set, and too good by that. None: no
    early stopping."""
    tensorboard: bool = False
    """Also write the metrics as TensorBoard events; needs the extra `tensorboard`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the computation; parameters and statistics are float32."""

    def __post_init__(self):
        """Checks the ranges."""
        periods = ("eval_every", "log_every", "checkpoint_every")
        others = ("num_steps", "keep_checkpoints", "average_examples", "patience")
        require_at_least(self, "train.", **dict.fromkeys((*periods, *others), 1))
        epochs = self.num_epochs
        fits = epochs is None or 0 < epochs < math.inf
        require(fits, "train.num_epochs", "> 0", epochs)
        fits = self.num_steps is None or epochs is None
        rule, fix = (
            "None where train.num_epochs is given",
            "give one of the two, and None for the other",
        )
        require(fits, "train.num_steps", rule, self.num_steps, fix=fix)
        smoothing, decay = self.label_smoothing, self.average_decay
        require(0 <= smoothing < 1, "train.label_smoothing", "in [0, 1)", smoothing)
        fits = decay is None or 0 < decay < 1
        require(fits, "train.average_decay", "in (0, 1)", decay)

    @property
    def total_steps(self) -> int:
        """The total number of steps.

        Raises:
            ValueError: it is given in epochs; `experiments.data.in_steps` converts it.
        """
        rule, fix = "None where the length is given in steps", "give train.num_steps"
        epochs = self.num_epochs
        require(epochs is None, "train.num_epochs", rule, epochs, fix=fix)
        return DEFAULT_STEPS if self.num_steps is None else self.num_steps


@config("parallel.")
class ParallelConfig:
    """How the batch is split over devices, and which of them share statistics."""

    mode: Literal["jit", "shard_map", "pmap"] = "jit"
    """All three give the same numbers; jit is what JAX recommends."""
    num_devices: int | None = None
    """Devices of all processes together, at least 1 and a divisor of data.batch_size.
    None: all. A CPU is split into this many devices."""
    statistics: Literal["global", "device"] | int = "global"
    """Which part of the batch shares batch statistics: global, all of it; device, the
    part on each device; a number, the part on each group of this many devices."""

    def __post_init__(self):
        """Checks the ranges."""
        require_at_least(self, "parallel.", num_devices=1)
        group = self.statistics
        fits = isinstance(group, str) or group >= 1
        require(fits, "parallel.statistics", "global, device, or >= 1", group)


@config("processes.")
class ProcessesConfig:
    """How several processes find each other; this does not change what a run is.

    `python -m experiments launch` sets these fields on one machine.
    """

    detect: bool = False
    """Let JAX find the others: under Slurm, Open MPI, on Cloud TPU, in GKE.

    Each process uses all devices that it has, `JAX_NUM_CPU_DEVICES` of them on a CPU.
    Asked to stop, `mpirun` kills them before they have saved, unless it has
    `--mca odls_base_sigkill_timeout 10`.
    """
    coordinator_address: str | None = None
    """HOST:PORT of process 0, unless `detect` is on."""
    num_processes: int | None = None
    """How many there are, at least 1."""
    process_id: int | None = None
    """The number of this process, from 0."""

    def __post_init__(self):
        """Checks the ranges."""
        address, num, number = (
            self.coordinator_address,
            self.num_processes,
            self.process_id,
        )
        num_given = sum(value is not None for value in (address, num, number))
        require(
            num_given in (0, 3),
            "processes.coordinator_address",
            "given together with num_processes and process_id",
            address,
            fix="give all three or none",
        )
        rule = "False where processes.coordinator_address is given"
        alone = not (self.detect and num_given)
        require(alone, "processes.detect", rule, self.detect)
        host, _, port = (address or "host:1").rpartition(":")
        fits = bool(host) and port.isdecimal() and 0 < int(port) < 2**16
        require(fits, "processes.coordinator_address", "HOST:PORT", address)
        if num is not None and number is not None:
            require(num >= 1, "processes.num_processes", ">= 1", num)
            rule = f"in [0, {num})"
            require(0 <= number < num, "processes.process_id", rule, number)


@config()
class ExperimentConfig:
    """One experiment."""

    name: str
    """Names the run folder, `runs/NAME`."""
    seed: int = 0
    """Seed of the initial parameters and the data order, in [0, 2**32)."""
    init: str | None = None
    """A run's folder or a .safetensors file, whose weights and statistics training
    starts from, instead of random ones; a last layer with another number of outputs
    stays random."""
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    norm: NormConfig = NormConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    parallel: ParallelConfig = ParallelConfig()
    processes: ProcessesConfig = ProcessesConfig()

    def __post_init__(self):
        """Checks the ranges, and that the parts fit each other."""
        check_name_and_seed(self.name, self.seed)
        size, virtual = self.data.batch_size, self.norm.virtual_batch_size
        divisor = f"a divisor of data.batch_size, {size}"
        fits = virtual is None or size % virtual == 0
        require(fits, "norm.virtual_batch_size", divisor, virtual)
        num, group = self.parallel.num_devices, self.parallel.statistics
        fits = num is None or size % num == 0
        require(fits, "parallel.num_devices", divisor, num)
        count = self.processes.num_processes or 1
        fits = num is None or num % count == 0
        rule = f"a multiple of the number of processes, {count}"
        require(fits, "parallel.num_devices", rule, num)
        fits = count == 1 or self.parallel.mode != "pmap"
        rule = f"jit or shard_map for {count} processes"
        require(fits, "parallel.mode", rule, self.parallel.mode)
        fits = isinstance(group, str) or bool(num and num % group == 0)
        rule = "global, device or a divisor of parallel.num_devices"
        fix = f"parallel.num_devices is {num}"
        require(fits, "parallel.statistics", rule, group, fix=fix)
        fits = virtual is None or group == "global"
        rule = "global where norm.virtual_batch_size is given"
        fix = "it splits the batch itself"
        require(fits, "parallel.statistics", rule, group, fix=fix)
        flat = self.model.name in ("dense", "plain", "gru", "lstm", "step_gru")
        if flat and self.norm.kind in ("batch", "renorm"):
            self._check_examples()

    def _check_examples(self) -> None:
        """Requires two examples for each variance over examples alone."""
        size, virtual = self.data.batch_size, self.norm.virtual_batch_size
        num, group = self.parallel.num_devices, self.parallel.statistics
        empty = 0 if self.norm.ignore_mask else self.data.num_empty
        with_one = f"norm.kind {self.norm.kind} and model.name {self.model.name}"
        rule, fix = f">= 2 with {with_one}", "one value has no variance"
        require(size >= 2, "data.batch_size", rule, size, fix=fix)
        require(virtual != 1, "norm.virtual_batch_size", rule, virtual, fix=fix)
        rule = f"less than data.batch_size - 1, {size - 1}, with {with_one}"
        require(size - empty >= 2, "data.num_empty", rule, empty, fix=fix)
        if num is not None and group != "global":
            share = size // num * (1 if group == "device" else int(group))
            rule = f"at most half of data.batch_size, {size}, with {with_one}"
            fix = "one value for each share of statistics has no variance"
            require(share >= 2, "parallel.num_devices", rule, num, fix=fix)
