"""Writers of the volume datasets and of the common layouts: every file where and as it is published."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from medsam3_core.cases.cases import slug_case_id
from tests.storage.sources.datasets.drawn import DrawnCase, Published, blobs, colour, save, textured

ORGANS = (
    "spleen", "right_kidney", "left_kidney", "gallbladder", "esophagus", "liver", "stomach", "aorta",
    "inferior_vena_cava", "portal_and_splenic_vein", "pancreas", "right_adrenal_gland", "left_adrenal_gland",
)  # fmt: skip
EIGHT = ("aorta", "gallbladder", "left_kidney", "right_kidney", "liver", "pancreas", "spleen", "stomach")
SHAPE = (3, 20, 24)
AFFINE = np.array([[-0.7, 0, 0, 5], [0, -0.7, 0, 6], [0, 0, 3.0, -7], [0, 0, 0, 1]])
SPACING = (3.0, 0.7, 0.7)


def volume(seed: int) -> np.ndarray:
    """Hounsfield-like voxels (z, y, x)."""
    return np.stack([textured(seed + z, SHAPE[1:], 1).astype(np.int16) - 100 for z in range(SHAPE[0])])


def labelled(names: tuple[str, ...], values: dict[str, int], seed: int) -> tuple[np.ndarray, dict[str, list]]:
    """A label map with one box per structure, and the masks by structure."""
    random = np.random.default_rng(seed)
    labels = np.zeros(SHAPE, np.uint8)
    for index, name in enumerate(names):
        row, column = divmod(index, 4)
        height, width, depth = random.integers(2, 4), random.integers(2, 5), random.integers(1, 4)
        labels[:depth, 5 * row : 5 * row + height, 6 * column : 6 * column + width] = values[name]
        labels[0, 5 * row + height, 6 * column] = values[name]
    return labels, {name: [labels == values[name]] for name in names}


def write_nifti(path: Path, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(np.ascontiguousarray(voxels.T), affine), path)


def btcv(folder: Path) -> Published:
    cases = {}
    for key, split in (("0001", "test"), ("0005", "train")):
        voxels = volume(int(key) * 10)
        labels, masks = labelled(ORGANS, {name: value for value, name in enumerate(ORGANS, 1)}, int(key))
        write_nifti(folder / "RawData" / "Training" / "img" / f"img{key}.nii.gz", voxels)
        write_nifti(folder / "RawData" / "Training" / "label" / f"label{key}.nii.gz", labels)
        cases[key] = DrawnCase(voxels, {"reference": masks}, split, None, SPACING)
    write_nifti(folder / "RawData" / "Testing" / "img" / "img0061.nii.gz", volume(610))
    return Published(folder, "btcv", cases, ORGANS)


def btcv_8(folder: Path) -> Published:
    published = btcv(folder)
    kept = tuple(name for name in ORGANS if name in EIGHT)
    return Published(folder, "btcv_8", published.cases, kept)


def _synapse(folder: Path, names: tuple[str, ...], recipe: str) -> Published:
    cases, values = {}, {name: value for value, name in enumerate(names, 1)}
    for key, split in (("case0005", "train"), ("case0001", "test")):
        voxels = ((volume(int(key[4:]) * 7).astype(np.float32) + 125) / 400).clip(0, 1)
        labels, masks = labelled(names, values, int(key[4:]))
        if split == "test":
            path = folder / "test_vol_h5" / f"{key}.npy.h5"
            path.parent.mkdir(parents=True, exist_ok=True)
            with h5py.File(path, "w") as file:
                file["image"], file["label"] = voxels, labels.astype(np.float32)
            cases[slug_case_id(f"test/{key}")] = DrawnCase(voxels, {"reference": masks}, split, key)
            continue
        (folder / "train_npz").mkdir(parents=True, exist_ok=True)
        for z in range(SHAPE[0]):
            name = f"{key}_slice{z:03d}"
            np.savez(folder / "train_npz" / f"{name}.npz", image=voxels[z], label=labels[z].astype(np.float32))
            of_slice = {organ: [mask[z : z + 1] for mask in drawn] for organ, drawn in masks.items()}
            cases[slug_case_id(f"train/{name}")] = DrawnCase(voxels[z : z + 1], {"reference": of_slice}, split, key)
    return Published(folder, recipe, cases, names)


def synapse_transunet(folder: Path) -> Published:
    return _synapse(folder, EIGHT, "synapse_transunet")


def synapse_transunet_13(folder: Path) -> Published:
    return _synapse(folder, ORGANS, "synapse_transunet_13")


def cvpr_biomedsegfm(folder: Path) -> Published:
    cases = {}
    texts = {"Liver in abdominal CT": "liver_in_abdominal_ct", "The left kidney": "the_left_kidney"}
    places = {"train/CT/CT_Abdomen/CT_Abdomen_0001": (1, 2), "val/CT_Abdomen_0002": (2, 1)}
    for seed, (place, (liver, kidney)) in enumerate(places.items()):
        split, _, key = place.partition("/")
        root = folder / {"train": "3D_train_npz_random_10percent_16G", "val": "3D_val_npz"}[split]
        voxels = (volume(30 + seed) + 100).astype(np.uint8)
        values = {"liver_in_abdominal_ct": liver, "the_left_kidney": kidney}
        labels, masks = labelled(tuple(values), values, seed)
        prompts = {str(liver): "Liver in abdominal CT", str(kidney): "The left kidney", "instance_label": 0}
        _write_npz(root / f"{key}.npz", voxels, labels, prompts)
        cases[slug_case_id(place)] = DrawnCase(voxels, {"reference": masks}, split, None, SPACING)
    voxels, first, second = (volume(50) + 100).astype(np.uint8), np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    first[0:2, 2:5, 3:7], second[1:3, 10:14, 12:20] = True, True
    prompts = {"1": "Nuclei in electron microscopy", "instance_label": 1}
    root = folder / "3D_val_npz"
    _write_npz(root / "Microscopy_Nuclei_0003.npz", voxels, (first * 4 + second * 9).astype(np.uint16), prompts)
    name = "nuclei_in_electron_microscopy"
    drawn = {name: [first, second]}
    cases[slug_case_id("val/Microscopy_Nuclei_0003")] = DrawnCase(voxels, {"reference": drawn}, "val", None, SPACING)
    structures = tuple(sorted({*texts.values(), name}))
    return Published(folder, "cvpr_biomedsegfm", cases, structures, frozenset({name}))


def _write_npz(path: Path, voxels: np.ndarray, labels: np.ndarray, prompts: dict[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    spacing = np.array(SPACING[::-1])
    np.savez(path, imgs=voxels, gts=labels, spacing=spacing, text_prompts=np.array(prompts, dtype=object))


def decathlon(folder: Path) -> Published:
    """Task01_BrainTumour: four channels in one 4D file, published test images without labels."""
    cases, names = {}, ("edema", "non-enhancing_tumor")
    (folder / "labelsTr").mkdir(parents=True)
    for key in ("BRATS_001", "BRATS_002"):
        channels = np.stack([volume(int(key[-1]) * 40 + 9 * c) for c in range(4)])
        labels, masks = labelled(names, dict(zip(names, (1, 2), strict=True)), int(key[-1]))
        (folder / "imagesTr").mkdir(exist_ok=True)
        nib.save(
            nib.Nifti1Image(np.moveaxis(channels, 0, -1).transpose(2, 1, 0, 3), AFFINE),
            folder / f"imagesTr/{key}.nii.gz",
        )
        write_nifti(folder / "labelsTr" / f"{key}.nii.gz", labels)
        cases[key] = DrawnCase(channels[0], {"reference": masks}, None, None, SPACING)
    write_nifti(folder / "imagesTs" / "BRATS_485.nii.gz", volume(99))
    index = {
        "name": "BRATS",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor"},
        "training": [{"image": f"./imagesTr/{key}.nii.gz", "label": f"./labelsTr/{key}.nii.gz"} for key in cases],
        "test": ["./imagesTs/BRATS_485.nii.gz"],
        "licence": "CC-BY-SA 4.0",
    }
    (folder / "dataset.json").write_text(json.dumps(index))
    return Published(folder, "BRATS", cases, names)


def nnunet(folder: Path) -> Published:
    """Dataset with two channel files per case and a labelled test folder."""
    cases, names = {}, ("prostate", "lesion")
    for key, part, split in (("case_001", "Tr", "train"), ("case_002", "Ts", "test")):
        channels = [volume(int(key[-1]) * 60 + 5 * c) for c in range(2)]
        labels, masks = labelled(names, {"prostate": 1, "lesion": 2}, int(key[-1]))
        for number, channel in enumerate(channels):
            write_nifti(folder / f"images{part}" / f"{key}_{number:04d}.nii.gz", channel)
        write_nifti(folder / f"labels{part}" / f"{key}.nii.gz", labels)
        cases[key] = DrawnCase(channels[0], {"reference": masks}, split, None, SPACING)
    index = {
        "channel_names": {"0": "T2", "1": "ADC"},
        "labels": {"background": 0, "prostate": 1, "lesion": 2},
        "numTraining": 1,
        "file_ending": ".nii.gz",
        "name": "Dataset005_Prostate",
    }
    (folder / "dataset.json").write_text(json.dumps(index))
    return Published(folder, "Dataset005_Prostate", cases, names)


def nnunet_png(folder: Path) -> Published:
    """A 2D dataset of nnU-Net with PNG files."""
    cases = {}
    for seed, key in enumerate(("street_1", "street_2"), start=1400):
        pixels, roads = textured(seed), blobs(seed, 2)
        save(folder / "imagesTr" / f"{key}_0000.png", pixels)
        save(folder / "labelsTr" / f"{key}.png", (roads[0] | roads[1])[0].astype(np.uint8))
        cases[key] = DrawnCase(colour(pixels), {"reference": {"road": [roads[0] | roads[1]]}})
    names = {"0": "R", "1": "G", "2": "B"}
    index_file = {
        "channel_names": names,
        "labels": {"background": 0, "road": 1},
        "file_ending": ".png",
        "name": "Roads",
    }
    (folder / "dataset.json").write_text(json.dumps(index_file | {"numTraining": 2}))
    return Published(folder, "Roads", cases, ("road",))


def bids(folder: Path) -> Published:
    cases, names = {}, ("Hippocampus", "Amygdala")
    for index, subject in enumerate(("sub-01", "sub-02")):
        stem = f"{subject}_ses-1_run-1"
        voxels = volume(70 + 10 * index)
        write_nifti(folder / subject / "ses-1" / "anat" / f"{stem}_T1w.nii.gz", voxels)
        write_nifti(folder / subject / "ses-1" / "anat" / f"{stem}_T2w.nii.gz", volume(90 + index))
        references = {}
        for rater in ("expert1", "expert2"):
            labels, masks = labelled(names, {"Hippocampus": 17, "Amygdala": 18}, 7 * index + int(rater[-1]))
            write_nifti(
                folder / "derivatives" / rater / subject / "ses-1" / "anat" / f"{stem}_space-orig_dseg.nii.gz", labels
            )
            references[rater] = masks
        split = ("train", "test")[index]
        cases[f"{stem}_T1w"] = DrawnCase(voxels, references, split, subject, SPACING)
    for rater in ("expert1", "expert2"):
        table = "index\tname\tabbreviation\n0\tBackground\tBG\n17\tHippocampus\tHC\n18\tAmygdala\tAM\n"
        (folder / "derivatives" / rater / "dseg.tsv").write_text(table)
    (folder / "participants.tsv").write_text("participant_id\tage\tsplit\nsub-01\t30\ttrain\nsub-02\tn/a\ttest\n")
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "Brains", "BIDSVersion": "1.9.0"}))
    return Published(folder, "Brains", cases, names)


def coco(folder: Path) -> Published:
    """Polygons, run lengths (as lists and as text), an image without instances and a crowd."""
    cases: dict[str, DrawnCase] = {}
    for split, first in (("train", 1), ("val", 3)):
        images, annotations = [], []
        for number in (first, first + 1):
            pixels, cells = textured(1500 + number), blobs(1500 + number, 3) if number != 4 else []
            save(folder / f"{split}2017" / f"{number:012d}.png", pixels)
            images.append({"id": number, "file_name": f"{number:012d}.png", "width": 56, "height": 40})
            drawn = {}
            for index, cell in enumerate(cells):
                runs = coco_mask.encode(np.asfortranarray(cell[0].astype(np.uint8)))
                segmentation = {"size": [40, 56], "counts": runs["counts"].decode()}
                if index == 1:
                    segmentation = {"size": [40, 56], "counts": _uncompressed(cell[0])}
                if index == 2:
                    cell = np.zeros((1, 40, 56), bool)
                    cell[0, 0:3, 0:6] = True
                    segmentation = [[0, 0, 6, 0, 6, 3, 0, 3]]
                kind = (7, 3)[index % 2]
                annotations.append(
                    {"image_id": number, "category_id": kind, "segmentation": segmentation, "iscrowd": 0}
                )
                drawn.setdefault({7: "red_cell", 3: "platelet"}[kind], []).append(cell)
            crowd = {"size": [40, 56], "counts": [0, 40, 40 * 55]}
            annotations.append({"image_id": number, "category_id": 7, "segmentation": crowd, "iscrowd": 1})
            key = slug_case_id(f"{split}/{number:012d}")
            cases[key] = DrawnCase(colour(pixels), {"reference": drawn}, split)
        index_file = folder / "annotations" / f"instances_{split}2017.json"
        index_file.parent.mkdir(parents=True, exist_ok=True)
        categories = [{"id": 7, "name": "red cell"}, {"id": 3, "name": "platelet"}]
        index_file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return Published(folder, "coco", cases, ("red_cell", "platelet"), frozenset({"red_cell", "platelet"}))


def _uncompressed(mask: np.ndarray) -> list[int]:
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def ddti_xml(folder: Path) -> Published:
    cases = {}
    for patient, images in ((1, (1, 2)), (7, (1,))):
        marks = []
        for image in images:
            seed = 1600 + 10 * patient + image
            pixels, nodules = textured(seed), []
            jpeg = save(folder / f"{patient}_{image}.jpg", pixels, quality=95)
            shapes = []
            for column in range(5, 5 + 15 * image, 15):
                nodule = np.zeros((1, 40, 56), bool)
                nodule[0, 8:20, column : column + 9] = True
                nodules.append(nodule)
                corners = [(column, 8), (column + 8, 8), (column + 8, 19), (column, 19)]
                shapes.append({"points": [{"x": x, "y": y} for x, y in corners], "regionType": "freehand"})
            marks.append(f"<mark><image>{image}</image><svg>{json.dumps(shapes)}</svg></mark>")
            cases[f"{patient}_{image}"] = DrawnCase(
                colour(np.asarray(Image.open(jpeg))), {"reference": {"nodule": nodules}}, None, str(patient)
            )
        (folder / f"{patient}.xml").write_text(f"<case><number>{patient}</number>{''.join(marks)}</case>")
    return Published(folder, "ddti_xml", cases, ("nodule",), frozenset({"nodule"}))


def plain_folders(folder: Path) -> Published:
    cases = {}
    for index, split in enumerate(("train", "test")):
        pixels, spot = textured(1700 + index), blobs(1700 + index, 1)
        save(folder / split / "images" / f"scan {index}.png", pixels)
        save(folder / split / "masks" / f"scan {index}_mask.png", spot[0][0].astype(np.uint8) * 255)
        cases[slug_case_id(f"{split}/scan {index}")] = DrawnCase(
            colour(pixels), {"reference": {"foreground": spot}}, split
        )
    return Published(folder, "plain_folders", cases, ("foreground",))


WRITERS: dict[str, Callable[[Path], Published]] = {
    writer.__name__: writer
    for writer in (
        btcv, btcv_8, synapse_transunet, synapse_transunet_13, cvpr_biomedsegfm, decathlon, nnunet, nnunet_png, bids,
        coco, ddti_xml, plain_folders,
    )
}  # fmt: skip
