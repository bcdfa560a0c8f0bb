"""Writers of the 2D datasets: every file where and as its authors publish it, a few cases each."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image, ImageDraw

from tests.storage.sources.datasets.drawn import DrawnCase, Published, blobs, colour, save, textured


def chase_db1(folder: Path) -> Published:
    cases = {}
    for index, key in enumerate(("Image_01L", "Image_01R", "Image_13L")):
        pixels, first, second = textured(index), blobs(index, 2), blobs(index + 50, 1)
        jpeg = save(folder / f"{key}.jpg", pixels, quality=95)
        save(folder / f"{key}_1stHO.png", first[0][0] | first[1][0])
        save(folder / f"{key}_2ndHO.png", first[0][0] | second[0][0])
        references = {"1stHO": {"vessel": [first[0] | first[1]]}, "2ndHO": {"vessel": [first[0] | second[0]]}}
        split = "test" if key == "Image_13L" else "train"
        cases[key] = DrawnCase(colour(np.asarray(Image.open(jpeg))), references, split, key[:-1])
    return Published(folder, "chase_db1", cases, ("vessel",))


def stare(folder: Path) -> Published:
    cases = {}
    for index, key in enumerate(("im0001", "im0077")):
        pixels, first, second = textured(100 + index), blobs(100 + index, 2), blobs(150 + index, 2)
        drawn = {"ah": first[0] | first[1], "vk": first[0] | second[0]}
        _write_gzip(folder / "stare-images" / f"{key}.ppm.gz", pixels)
        for rater, mask in drawn.items():
            _write_gzip(folder / f"labels-{rater}" / f"{key}.{rater}.ppm.gz", mask[0].astype(np.uint8) * 255)
        references = {rater: {"vessel": [mask]} for rater, mask in drawn.items()}
        cases[key] = DrawnCase(colour(pixels), references)
    return Published(folder, "stare", cases, ("vessel",))


def cvc_clinicdb(folder: Path) -> Published:
    cases = {}
    for index in range(3):
        pixels, polyps = textured(200 + index), blobs(200 + index, 1 + index % 2)
        save(folder / "Original" / f"{index + 1}.tif", pixels)
        save(folder / "Ground Truth" / f"{index + 1}.tif", _white(polyps))
        patient = f"{index // 2 + 1}"
        cases[str(index + 1)] = DrawnCase(colour(pixels), {"reference": {"polyp": polyps}}, None, patient)
    rows = ["frame_id,sequence_id,tif_image_path", "1,1,a", "2,1,b", "3,2,c"]
    (folder / "metadata.csv").write_text("\n".join(rows))
    return Published(folder, "cvc_clinicdb", cases, ("polyp",), frozenset({"polyp"}))


def etis_larib(folder: Path) -> Published:
    cases, root = {}, folder / "ETIS-LaribPolypDB"
    for index in range(2):
        pixels, polyps = textured(300 + index), blobs(300 + index, 2 - index)
        save(root / "ETIS-LaribPolypDB" / f"{index + 1}.tif", pixels)
        save(root / "Ground Truth" / f"p{index + 1}.tif", _white(polyps))
        cases[str(index + 1)] = DrawnCase(colour(pixels), {"reference": {"polyp": polyps}})
    return Published(folder, "etis_larib", cases, ("polyp",), frozenset({"polyp"}))


def ph2(folder: Path) -> Published:
    cases = {}
    for index, key in enumerate(("IMD002", "IMD423")):
        pixels, lesion = textured(400 + index), blobs(400 + index, 1)
        root = folder / "PH2 Dataset images" / key
        save(root / f"{key}_Dermoscopic_Image" / f"{key}.bmp", pixels)
        save(root / f"{key}_lesion" / f"{key}_lesion.bmp", lesion[0][0])
        save(root / f"{key}_roi" / f"{key}_R1_Label4.bmp", lesion[0][0])
        cases[key] = DrawnCase(colour(pixels), {"reference": {"lesion": lesion}})
    (folder / "PH2_dataset.txt").write_text("Name || Histological Diagnosis")
    return Published(folder, "ph2", cases, ("lesion",))


def tn3k(folder: Path) -> Published:
    cases, root = {}, folder / "tn3k"
    for index, (part, split) in enumerate((("trainval", "train"), ("trainval", "train"), ("test", "test"))):
        key = f"{index % 2:04d}"
        pixels, nodules = textured(500 + index), blobs(500 + index, 1 + index)
        jpeg = save(root / f"{part}-image" / f"{key}.jpg", pixels, quality=95)
        save(root / f"{part}-mask" / f"{key}.jpg", _white(nodules), quality=98)
        cases[_id(f"{split}/{key}")] = DrawnCase(
            colour(np.asarray(Image.open(jpeg))), {"reference": {"nodule": nodules}}, split
        )
    (root / "tn3k-trainval-fold0.json").write_text(json.dumps({"train": [0], "val": [1]}))
    return Published(folder, "tn3k", cases, ("nodule",), frozenset({"nodule"}))


def tg3k(folder: Path) -> Published:
    cases, root = {}, folder / "tg3k"
    for index in range(3):
        pixels, gland = textured(600 + index), blobs(600 + index, 2)
        jpeg = save(root / "thyroid-image" / f"{index:04d}.jpg", pixels, quality=95)
        save(root / "thyroid-mask" / f"{index:04d}.jpg", _white(gland), quality=98)
        cases[f"{index:04d}"] = DrawnCase(
            colour(np.asarray(Image.open(jpeg))),
            {"reference": {"thyroid_gland": [gland[0] | gland[1]]}},
            "val" if index == 1 else "train",
        )
    (root / "tg3k-trainval.json").write_text(json.dumps({"train": [0, 2], "val": [1]}))
    return Published(folder, "tg3k", cases, ("thyroid_gland",))


def ddti(folder: Path) -> Published:
    cases, root = {}, folder / "DDTI" / "1_or_data"
    for index in range(2):
        pixels, nodules = textured(700 + index), blobs(700 + index, 2 + index)
        save(root / "image" / f"{index + 1}.PNG", pixels)
        save(root / "mask" / f"{index + 1}.PNG", _white(nodules))
        cases[str(index + 1)] = DrawnCase(colour(pixels), {"reference": {"nodule": nodules}})
    return Published(folder, "ddti", cases, ("nodule",), frozenset({"nodule"}))


def hc18(folder: Path) -> Published:
    cases, rows = {}, ["filename,pixel size(mm),head circumference (mm)"]
    boxes = {"000_HC": (8, 6, 40, 30), "001_HC": (12, 10, 50, 34), "001_2HC": (6, 8, 44, 28)}
    for index, (key, box) in enumerate(boxes.items()):
        pixels, size = textured(800 + index, channels=1), 0.1 + index / 100
        outline, filled = Image.new("L", (56, 40)), Image.new("L", (56, 40))
        ImageDraw.Draw(outline).ellipse(box, outline=255)
        ImageDraw.Draw(filled).ellipse(box, fill=255, outline=255)
        save(folder / "training_set" / f"{key}.png", pixels)
        save(folder / "training_set" / f"{key}_Annotation.png", np.asarray(outline))
        rows.append(f"{key}.png,{size},170.5")
        head = np.asarray(filled)[None] > 0
        cases[key] = DrawnCase(pixels[None], {"reference": {"fetal_head": [head]}}, None, key[:3], (1.0, size, size))
    (folder / "training_set_pixel_size_and_HC.csv").write_text("\n".join(rows))
    save(folder / "test_set" / "000_HC.png", textured(850, channels=1))
    (folder / "test_set_pixel_size.csv").write_text("filename,pixel size(mm)\n000_HC.png,0.1")
    return Published(folder, "hc18", cases, ("fetal_head",))


def dsb18(folder: Path) -> Published:
    cases = {}
    for index in range(2):
        key = f"{index + 10:x}" * 64
        pixels, nuclei = textured(900 + index), blobs(900 + index, 3)
        opaque = np.full((*pixels.shape[:2], 1), 255, np.uint8)
        save(folder / key / "images" / f"{key}.png", np.concatenate([pixels, opaque], axis=2))
        for number, nucleus in enumerate(nuclei):
            save(folder / key / "masks" / f"{number:064x}.png", nucleus[0].astype(np.uint8) * 255)
        cases[key] = DrawnCase(colour(pixels), {"reference": {"nucleus": nuclei}}, "test")
    return Published(folder, "dsb18", cases, ("nucleus",), frozenset({"nucleus"}))


def consep(folder: Path) -> Published:
    names = ("miscellaneous", "inflammatory", "healthy_epithelial", "malignant_epithelial")
    others = ("fibroblast", "muscle", "endothelial")
    cases = {}
    for index, (part, key) in enumerate((("Train", "train_1"), ("Test", "test_1"))):
        pixels, nuclei, kinds = textured(1000 + index), blobs(1000 + index, 4), [2, 3, 7, 2]
        instances, types = np.zeros((40, 56)), np.zeros((40, 56))
        by_type: dict[str, list[np.ndarray]] = {"nucleus": nuclei}
        for number, (nucleus, kind) in enumerate(zip(nuclei, kinds, strict=True), start=1):
            instances[nucleus[0]], types[nucleus[0]] = 3 * number, kind
            by_type.setdefault((*names, *others)[kind - 1], []).append(nucleus)
        save(folder / part / "Images" / f"{key}.png", pixels)
        content = {"inst_map": instances, "type_map": types, "inst_type": np.array(kinds)[:, None].astype(float)}
        write_mat(folder / part / "Labels" / f"{key}.mat", content | {"inst_centroid": np.zeros((4, 2))})
        save(folder / part / "Overlay" / f"{key}.png", pixels)
        cases[_id(f"{part.lower()}/{key}")] = DrawnCase(colour(pixels), {"reference": by_type}, part.lower())
    structures = ("nucleus", *names, *others)
    return Published(folder, "consep", cases, structures, frozenset(structures))


def write_mat(path: Path, content: dict[str, np.ndarray]) -> None:
    """Write a MATLAB 5 file, creating its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, content, do_compression=True)


WRITERS: dict[str, Callable[[Path], Published]] = {
    writer.__name__: writer
    for writer in (chase_db1, stare, cvc_clinicdb, etis_larib, ph2, tn3k, tg3k, ddti, hc18, dsb18, consep)
}


def _white(masks: list[np.ndarray]) -> np.ndarray:
    return np.logical_or.reduce(masks)[0].astype(np.uint8) * 255


def _id(key: str) -> str:
    from medsam3_core.cases.cases import slug_case_id

    return slug_case_id(key)


def _write_gzip(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PPM")
    path.write_bytes(gzip.compress(buffer.getvalue()))
