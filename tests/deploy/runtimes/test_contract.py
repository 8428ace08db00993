"""Files of any maker: which output is read, where its classes are, what its values are, and what goes in."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from kdc.deploy.flags import said as read_flags
from kdc.deploy.runtimes.open import open_runtime
from kdc.deploy.runtimes.openvino_file import read_ir
from kdc.deploy.runtimes.said import NOTHING, Said
from kdc.distill.errors import UsageError, WeightsError
from kdc.distill.preprocess import IMAGENET, Preprocess

from ..._made import Port, onnx_file

K, H, W = 5, 16, 24
RNG = np.random.default_rng(3)
WEIGHTS = (0.1 * RNG.standard_normal((K, 3, 3, 3))).astype(np.float32)
ONE = (0.1 * RNG.standard_normal((1, 3, 3, 3))).astype(np.float32)
IMAGE = np.repeat(np.repeat(RNG.integers(0, 256, (1, H // 4, W // 4, 3), np.uint8), 4, 1), 4, 2)
N = helper.make_node
CONV, SINGLE = N("Conv", ["x", "w"], ["z"], pads=[1, 1, 1, 1]), N("Conv", ["x", "v"], ["z"], pads=[1, 1, 1, 1])
HALF = N("AveragePool", ["z"], ["h"], kernel_shape=[2, 2], strides=[2, 2])
INT = TensorProto.INT64


def foreign(path: Path, *nodes: onnx.NodeProto, made: dict[str, Port], image: Port = (1, 3, H, W), **more) -> Path:
    stored = {
        "w": WEIGHTS,
        "v": ONE,
        "half": np.array([0.5], np.float32),
        "zero": np.array([0], np.float32),
        "255": np.array([255], np.float32),
    }
    stored |= {
        "p": np.array([1, K, H * W], np.int64),
        "q": np.array([1, H * W, K], np.int64),
        "axis": np.array([1], np.int64),
        "one": np.array([1], np.float32),
    }
    used = {name for node in nodes for name in node.input}
    return onnx_file(path, nodes, {"x": image}, made, {k: v for k, v in stored.items() if k in used}, **more)


def scores(weights: np.ndarray = WEIGHTS, prepare: Preprocess = IMAGENET) -> np.ndarray:
    import torch

    return torch.nn.functional.conv2d(
        torch.from_numpy(prepare.apply(IMAGE)), torch.from_numpy(weights), padding=1
    ).numpy()


MASK, BINARY = scores().argmax(1)[0], (scores(ONE)[0, 0] > 0).astype(int)

KINDS = {
    "logits": ([CONV], {"z": (1, K, H, W)}, MASK),
    "softmax": ([CONV, N("Softmax", ["z"], ["y"], axis=1)], {"y": (1, K, H, W)}, MASK),
    "sigmoid": ([CONV, N("Sigmoid", ["z"], ["y"])], {"y": (1, K, H, W)}, MASK),
    "free classes": ([CONV], {"z": (1, "k", H, W)}, MASK),
    "nothing stated": ([CONV], {"z": (1, "a", "b", "c")}, MASK),
    "nhwc": ([CONV, N("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1])], {"y": (1, H, W, K)}, MASK),
    "no batch": ([CONV, N("Squeeze", ["z"], ["y"])], {"y": (K, H, W)}, MASK),
    "points": ([CONV, N("Reshape", ["z", "p"], ["y"])], {"y": (1, K, H * W)}, MASK),
    "labels": ([CONV, N("ArgMax", ["z"], ["y"], axis=1, keepdims=0)], {"y": ((1, H, W), INT)}, MASK),
    "labels kept": ([CONV, N("ArgMax", ["z"], ["y"], axis=1)], {"y": ((1, 1, H, W), INT)}, MASK),
    "labels last": (
        [CONV, N("Transpose", ["z"], ["t"], perm=[0, 2, 3, 1]), N("ArgMax", ["t"], ["y"], axis=3)],
        {"y": ((1, H, W, 1), INT)},
        MASK,
    ),
    "labels alone": ([CONV, N("ArgMax", ["z"], ["a"], axis=1), N("Squeeze", ["a"], ["y"])], {"y": ((H, W), INT)}, MASK),
    "labels int32": (
        [CONV, N("ArgMax", ["z"], ["a"], axis=1), N("Cast", ["a"], ["y"], to=TensorProto.INT32)],
        {"y": ((1, 1, H, W), TensorProto.INT32)},
        MASK,
    ),
    "labels float": (
        [CONV, N("ArgMax", ["z"], ["a"], axis=1), N("Cast", ["a"], ["y"], to=TensorProto.FLOAT)],
        {"y": (1, 1, H, W)},
        MASK,
    ),
    "one logit": ([SINGLE], {"z": (1, 1, H, W)}, BINARY),
    "one logit nhwc": ([SINGLE, N("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1])], {"y": (1, H, W, 1)}, BINARY),
    "one logit squeezed": ([SINGLE, N("Squeeze", ["z", "axis"], ["y"])], {"y": (1, H, W)}, BINARY),
    "one probability": ([SINGLE, N("Sigmoid", ["z"], ["y"])], {"y": (1, 1, H, W)}, BINARY),
    "one mask": ([SINGLE, N("Greater", ["z", "zero"], ["y"])], {"y": ((1, 1, H, W), TensorProto.BOOL)}, BINARY),
    "one mask of 255": (
        [
            SINGLE,
            N("Sigmoid", ["z"], ["s"]),
            N("Greater", ["s", "half"], ["g"]),
            N("Cast", ["g"], ["c"], to=TensorProto.FLOAT),
            N("Mul", ["c", "255"], ["y"]),
        ],
        {"y": (1, 1, H, W)},
        BINARY,
    ),
    "auxiliary first": (
        [N("Neg", ["z"], ["aux"]), CONV][::-1],
        {"aux": (1, K, H, W), "z": (1, K, H, W)},
        MASK,
    ),
    "small first": ([CONV, HALF], {"h": (1, K, H // 2, W // 2), "z": (1, K, H, W)}, MASK),
    "all forms": (
        [CONV, N("Softmax", ["z"], ["s"], axis=1), N("ArgMax", ["s"], ["y"], axis=1)],
        {"y": ((1, 1, H, W), INT), "s": (1, K, H, W), "z": (1, K, H, W)},
        MASK,
    ),
    "features beside": (
        [CONV, N("GlobalAveragePool", ["z"], ["g"]), N("Flatten", ["g"], ["f"])],
        {"f": (1, K), "z": (1, K, H, W)},
        MASK,
    ),
}


@pytest.mark.parametrize("provider", [None, "openvino"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_output_gives_the_same_mask(tmp_path, kind, provider):
    nodes, made, mask = KINDS[kind]
    with open_runtime(foreign(tmp_path / "a.onnx", *nodes, made=made, opset=13), provider=provider) as runtime:
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], mask)
        assert len(runtime.spec.classes) == (2 if kind.startswith("one") else K)
        out = runtime.infer(runtime.prepare(IMAGE))
        assert out.shape[2:] == (H, W) if runtime.spec.head == "logits" else out.dtype == np.uint8


@pytest.mark.parametrize("last", ["nhwc", "nchw"])
@pytest.mark.parametrize("labels", [False, True])
def test_a_fraction_of_the_size_is_enlarged(tmp_path, last, labels):
    nodes, name, shape = [CONV, HALF], "h", [1, K, H // 2, W // 2]
    if last == "nhwc":
        nodes, name, shape = [*nodes, N("Transpose", ["h"], ["t"], perm=[0, 2, 3, 1])], "t", [1, H // 2, W // 2, K]
    made: dict[str, Port] = {name: shape}
    if labels:
        nodes.append(N("ArgMax", [name], ["y"], axis=3 if last == "nhwc" else 1, keepdims=0))
        made = {"y": ([1, H // 2, W // 2], INT)}
    with open_runtime(foreign(tmp_path / "a.onnx", *nodes, made=made)) as runtime:
        small = scores()[0].reshape(K, H // 2, 2, W // 2, 2).mean((2, 4)).argmax(0)
        mask = runtime.masks(IMAGE)[0]
        assert mask.shape == (H, W)
        if labels:
            np.testing.assert_array_equal(mask, small.repeat(2, 0).repeat(2, 1))
        else:  # bilinear: the same away from borders
            assert (mask == small.repeat(2, 0).repeat(2, 1)).mean() > 0.8


def test_of_several_outputs_the_one_with_the_classes_of_the_data(tmp_path):
    made: dict[str, Port] = {"o": (1, 1, H, W), "z": (1, K, H, W)}
    path = foreign(tmp_path / "a.onnx", CONV, N("Conv", ["x", "v"], ["o"], pads=[1, 1, 1, 1]), made=made)
    for classes, name in ((K, "z"), (2, "o")):
        with open_runtime(path, said=Said(classes=classes)) as runtime:
            assert runtime.spec.answer.name == name
            assert "classes of the data" in runtime.spec.answer.how["output"]
    with pytest.raises(
        WeightsError, match=r"2 outputs that may be the answer \(o 1x1x16x24, z 1x5x16x24\).*--output-name"
    ):
        open_runtime(path)
    with open_runtime(path, said=Said("z")) as runtime:  # the cure
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], MASK)
    with pytest.raises(UsageError, match=r"--output-name zz: .* has o, z; did you mean 'z'"):
        open_runtime(path, said=Said("zz"))


def test_the_class_that_the_data_ignore_is_never_chosen(tmp_path):
    path = foreign(tmp_path / "a.onnx", CONV, made={"z": (1, K, H, W)})
    with open_runtime(path, said=Said(classes=K - 1, void=True)) as runtime:
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], scores()[0, : K - 1].argmax(0))
        assert len(runtime.spec.classes) == K - 1


def test_one_channel_of_unknown_values_is_asked_for(tmp_path):
    nodes = [SINGLE, N("Neg", ["z"], ["n"]), N("Exp", ["n"], ["e"]), N("Add", ["e", "one"], ["a"])]
    path = foreign(tmp_path / "a.onnx", *nodes, N("Reciprocal", ["a"], ["y"]), made={"y": (1, 1, H, W)})
    with pytest.raises(
        WeightsError, match=r"one channel, and it ends in Reciprocal.*--scores logits or --scores probs"
    ):
        open_runtime(path)
    with open_runtime(path, said=Said(scores="probs")) as runtime:
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], BINARY)
    with open_runtime(path, said=Said(scores="logits")) as runtime:
        assert runtime.masks(IMAGE).all()  # as said


def test_two_layouts_are_asked_for_and_the_nodes_know(tmp_path):
    weights = RNG.standard_normal((8, 3, 1, 1)).astype(np.float32)
    shape = [1, 8, 8, 8]
    plain = [N("Conv", ["x", "w"], ["z"])]
    turned = [*plain, N("Transpose", ["z"], ["y"], perm=[0, 2, 3, 1])]
    hidden = [*turned, N("Reshape", ["y", "s"], ["r"])]
    stored = {"w": weights, "s": np.array(shape, np.int64)}
    for nodes, name, axes in ((plain, "z", "NCHW"), (turned, "y", "NHWC")):
        path = onnx_file(tmp_path / f"{name}.onnx", nodes, {"x": [1, 3, 8, 8]}, {name: shape}, {"w": weights})
        with open_runtime(path) as runtime:
            assert runtime.spec.answer.axes == axes
    path = onnx_file(tmp_path / "r.onnx", hidden, {"x": [1, 3, 8, 8]}, {"r": shape}, stored)
    with pytest.raises(WeightsError, match=r"may be NCHW with 8 classes or NHWC with 8 classes.*--layout nchw or"):
        open_runtime(path)
    for layout, axes in (("nchw", "NCHW"), ("nhwc", "NHWC")):
        with open_runtime(path, said=Said(layout=layout)) as runtime:
            assert runtime.spec.answer.axes == axes


@pytest.mark.parametrize(
    ("made", "nodes"),
    [
        ({"f": (1, K)}, [CONV, N("GlobalAveragePool", ["z"], ["g"]), N("Flatten", ["g"], ["f"])]),
        ({"g": (1, K, 1, 1)}, [CONV, N("GlobalAveragePool", ["z"], ["g"])]),
    ],
)
def test_what_is_no_map_of_classes_is_refused_in_one_line(tmp_path, made, nodes):
    with pytest.raises(
        WeightsError, match=r"gives [fg] 1x5.* for an image of 256x256; accepted: scores NxKxHxW"
    ) as caught:
        open_runtime(foreign(tmp_path / "a.onnx", *nodes, made=made, image=(1, 3, 256, 256)))
    assert "\n" not in str(caught.value)


def test_more_classes_than_a_mask_holds_are_refused(tmp_path):
    weights = np.zeros((300, 3, 1, 1), np.float32)
    nodes, image = [N("Conv", ["x", "w"], ["z"])], {"x": [1, 3, 8, 8]}
    path = onnx_file(tmp_path / "a.onnx", nodes, image, {"z": [1, 300, 8, 8]}, {"w": weights})
    with pytest.raises(WeightsError, match="has 300 classes, and kdc's masks hold at most 255"):
        open_runtime(path)
    labels = [*nodes, N("ArgMax", ["z"], ["y"], axis=1)]
    path = onnx_file(tmp_path / "b.onnx", labels, image, {"y": ([1, 1, 8, 8], INT)}, {"w": weights})
    with pytest.raises(WeightsError, match="has 300 classes"):
        open_runtime(path)
    made = [*labels, N("Add", ["y", "many"], ["s"])]
    stored = {"w": weights, "many": np.array([400], np.int64)}
    path = onnx_file(tmp_path / "c.onnx", made, image, {"s": ([1, 1, 8, 8], INT)}, stored)
    with (
        pytest.raises(WeightsError, match=r"300 classes|gives label 400; accepted are 0 to 255"),
        open_runtime(path) as runtime,
    ):
        runtime.masks(np.zeros((1, 8, 8, 3), np.uint8))


@pytest.mark.parametrize("image", [("n", "c", "h", "w"), ("n", "c", H, W), (1, 3, "h", "w"), ("n", 3, H, W)])
def test_any_axis_of_the_image_may_be_free(tmp_path, image):
    path = foreign(tmp_path / "a.onnx", CONV, made={"z": ("n", "k", "h", "w")}, image=image)
    with open_runtime(path, size=(H, W)) as runtime:
        assert runtime.spec.shape[1:] == (3, H, W)
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], MASK)


@pytest.mark.parametrize("image", [(1, H, W, 3), ("n", "h", "w", "c")])
def test_an_image_with_its_colours_last(tmp_path, image):
    nodes = [N("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), N("Conv", ["t", "w"], ["z"], pads=[1, 1, 1, 1])]
    path = foreign(tmp_path / "a.onnx", *nodes, made={"z": ("n", "k", "h", "w")}, image=image)
    with open_runtime(path, size=(H, W)) as runtime:
        assert (runtime.spec.layout, runtime.spec.shape[1:]) == ("NHWC", (H, W, 3))
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], MASK)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(TensorProto.FLOAT16, "float16"), (TensorProto.DOUBLE, "float64"), (TensorProto.UINT8, "uint8")],
)
def test_images_of_other_types(tmp_path, kind, name):
    nodes = [N("Cast", ["x"], ["f"], to=TensorProto.FLOAT), N("Conv", ["f", "w"], ["z"], pads=[1, 1, 1, 1])]
    path = foreign(tmp_path / "a.onnx", *nodes, made={"z": (1, K, H, W)}, image=((1, 3, H, W), kind))
    with open_runtime(path) as runtime:
        assert runtime.spec.dtype == name
        want = MASK if name != "uint8" else scores(prepare=Preprocess((0, 0, 0), (1, 1, 1))).argmax(1)[0]
        assert (runtime.masks(IMAGE)[0] == want).mean() > 0.99
    if name == "uint8":
        with open_runtime(path, said=Said(order="bgr")) as runtime:
            want = scores(prepare=Preprocess((0, 0, 0), (1, 1, 1), "bgr")).argmax(1)[0]
            np.testing.assert_array_equal(runtime.masks(IMAGE)[0], want)
        with pytest.raises(UsageError, match="takes bytes and normalises them itself: leave out --mean"):
            open_runtime(path, said=Said(preprocess=IMAGENET))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"std": [1, 1, 1], "order": "rgb"}, "it does not say mean"),
        ({}, "it does not say mean, std, order"),
        ({"mean": [0, 0], "std": [1, 1, 1], "order": "rgb"}, "mean"),
        ({"mean": [0, 0, 0], "std": [1, 1, 1], "order": "brg"}, "order is 'brg', accepted are rgb and bgr"),
    ],
)
def test_metadata_that_do_not_say_how_images_go_in_are_refused(tmp_path, values, said):
    path = foreign(tmp_path / "a.onnx", CONV, made={"z": (1, K, H, W)}, facts={"kdc.preprocess": values})
    with pytest.raises(WeightsError, match=rf"kdc.preprocess metadata cannot be read \({said}.*say it with --mean"):
        open_runtime(path)
    with open_runtime(path, said=Said(preprocess=IMAGENET)) as runtime:  # the cure
        np.testing.assert_array_equal(runtime.masks(IMAGE)[0], MASK)


def test_nodes_out_of_order_and_an_output_without_a_shape(tmp_path):
    model = onnx.load(foreign(tmp_path / "a.onnx", CONV, N("Softmax", ["z"], ["y"], axis=1), made={"y": (1, K, H, W)}))
    model.graph.node.insert(0, model.graph.node.pop())
    model.graph.output[0].type.tensor_type.ClearField("shape")
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    for provider in (None, "openvino"):
        with open_runtime(tmp_path / "b.onnx", provider=provider) as runtime:
            np.testing.assert_array_equal(runtime.masks(IMAGE)[0], MASK)


def test_a_circle_is_one_line(tmp_path):
    model = onnx.load(foreign(tmp_path / "a.onnx", CONV, N("Softmax", ["z"], ["y"], axis=1), made={"y": (1, K, H, W)}))
    model.graph.node[0].input[0] = "y"
    (tmp_path / "b.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(WeightsError) as caught:
        open_runtime(tmp_path / "b.onnx")
    assert "\n" not in str(caught.value)


def test_an_openvino_file_is_settled_alike(tmp_path):
    ov = pytest.importorskip("openvino")
    for kind in ("nhwc", "one probability", "auxiliary first", "labels", "softmax"):
        nodes, made, mask = KINDS[kind]
        path = foreign(tmp_path / f"{kind}.onnx", *nodes, made=made)
        ov.save_model(ov.Core().read_model(str(path)), str(path.with_suffix(".xml")), compress_to_fp16=False)
        with open_runtime(path.with_suffix(".xml")) as runtime:
            np.testing.assert_array_equal(runtime.masks(IMAGE)[0], mask)
        assert len(read_ir(path.with_suffix(".xml")).outputs) == len(made)


def test_flags_say_how_images_go_in(tmp_path):
    nodes = [CONV]
    path = foreign(tmp_path / "a.onnx", *nodes, made={"z": (1, K, H, W)})
    cases = {
        Preprocess((0, 0, 0), (255, 255, 255)): {"scale": "1/255"},
        Preprocess((127.5, 127.5, 127.5), (127.5, 127.5, 127.5), "bgr"): {
            "mean": "0.5",
            "std": "0.5",
            "scale": "1/255",
            "bgr": True,
        },
        Preprocess((104, 117, 123), (1, 1, 1), "bgr"): {"mean": "104,117,123", "bgr": True},
        Preprocess((0, 0, 0), (1, 1, 1)): {"scale": "1"},
    }
    for prepare, flags in cases.items():
        said = read_flags(**flags)
        assert said.preprocess is not None
        np.testing.assert_allclose(said.preprocess.mean, prepare.mean)
        np.testing.assert_allclose(said.preprocess.std, prepare.std)
        with open_runtime(path, said=said) as runtime:
            np.testing.assert_array_equal(runtime.masks(IMAGE)[0], scores(prepare=prepare).argmax(1)[0])
    with open_runtime(path, said=read_flags(bgr=True)) as runtime:
        assert runtime.spec.preprocess == IMAGENET.reversed
    assert read_flags() == NOTHING


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (
            {"mean": "0.485,0.456,0.406", "std": "0.229,0.224,0.225"},
            "from 0 to 1, and bytes go to 255: add --scale 1/255",
        ),
        ({"std": "0.229"}, "add --scale 1/255"),
        ({"scale": "255"}, "up to 1; for 0 to 1: --scale 1/255"),
        ({"scale": "0"}, "above 0"),
        ({"std": "0,1,1"}, "above 0"),
        ({"mean": "1,2"}, "one number or three"),
        ({"mean": "a"}, "one number or three"),
        ({"scale": "1/0"}, "a number, such as 1/255"),
        ({"layout": "nchv"}, "accepted are nchw, nhwc; did you mean 'nchw'"),
        ({"scores": "prob"}, "accepted are logits, probs, labels; did you mean 'probs'"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(flags, fault):
    with pytest.raises(UsageError, match=fault):
        read_flags(**flags)


def test_what_was_settled_is_said_once_and_recorded(tmp_path, capsys):
    path = foreign(tmp_path / "a.onnx", CONV, made={"z": (1, K, H, W)})
    for _ in range(2):
        with open_runtime(path, said=read_flags(scale="1/255")) as runtime:
            values = runtime.spec.contract.to_dict()
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("output 'z' holds logits of 5 classes, NCHW at 16x24 (the only output;") == 1
    assert said.count("images go in as RGB, minus 0 0 0, divided by 255 255 255 (said by you)") == 1
    assert values["answer"]["how"] == {
        "output": "the only output",
        "axes": "its rows and columns are the image's",
        "scores": "it ends in Conv",
        "preprocess": "said by you",
    }
    assert (values["preprocess"]["order"], values["answer"]["axes"]) == ("rgb", "NCHW")
