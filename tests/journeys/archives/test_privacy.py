"""Names, birth dates and free text stay outside: a whole store is searched for what was planted."""

from pathlib import Path

import pydicom
import pytest
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.dataset import Dataset

from flows.cli.entry import cli
from medsam3_core.errors import UsageError
from storage.cohorts.cohorts import latest_cases
from storage.store.layout import StoreLayout
from storage.store.pseudonyms import load_key
from tests.journeys.archives.segmented_here import segment_here
from tests.journeys.archives.test_dicom_faults import listed
from tests.journeys.archives.test_segment import request
from tests.journeys.archives.written_dicom import ct_slices, enhanced_ct, save

PLANTED = ("Zaphod", "Beeblebrox", "19610203", "MRN-4711", "secret remark", "Dr. Marvin")


def planted_slices(depth: int = 6) -> list:
    return ct_slices(
        depth,
        PatientName="Beeblebrox^Zaphod",
        PatientID="MRN-4711",
        PatientBirthDate="19610203",
        ReferringPhysicianName="Dr. Marvin",
        StudyDescription="secret remark",
        SeriesDescription="secret remark",
        ImageComments="secret remark",
    )


def found_in(folder: Path) -> set[str]:
    """Planted words in the content or the path of any file below a folder, in any of the encodings in use."""
    hits = set()
    for path in (item for item in folder.rglob("*") if item.is_file()):
        content = path.read_bytes() + str(path.relative_to(folder)).encode()
        low = content.lower()
        hits |= {word for word in PLANTED if word.lower().encode() in low or word.lower().encode("utf-16-le") in low}
    return hits


def test_a_store_holds_nothing_of_what_was_planted_even_in_paths_and_reasons(
    store: StoreLayout, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "archive"
    save(source / "Beeblebrox_Zaphod" / "19610203", planted_slices(), name=lambda z: f"ZAPHOD {z}.dcm")
    segment_here(store, request(source, tmp_path), tmp_path / "out")
    broken = planted_slices()
    del broken[2]
    save(source / "beeblebrox" / "broken", broken, name=lambda z: f"zaphod-{z}")
    cut = save(source / "ZaphodBeeblebrox", planted_slices(4))
    cut[2].write_bytes(cut[2].read_bytes()[:-50])
    request_again = request_of_first(source, tmp_path)
    segment_here(store, request_again, tmp_path / "out")
    reasons = [str(reason) for reason in latest_cases(store, request_again.cohort)["reason"]]
    assert any(reason.startswith("missing-slice") for reason in reasons)
    assert any(reason.startswith("truncated-file") for reason in reasons)
    assert found_in(store.root) == set()
    assert found_in(tmp_path / "out") == set()
    shown = caplog.text + "".join(capsys.readouterr())
    assert not [word for word in PLANTED if word.lower() in shown.lower()]


def request_of_first(source: Path, tmp_path: Path):
    from storage.exports.segment_plan import SegmentRequest

    del tmp_path
    return SegmentRequest(str(source), "baseline:box", prompts=source.parent / "boxes.csv")


_TEXTS = frozenset({"PN", "LO", "SH", "ST", "LT", "UT", "UC"})
_READ = frozenset({"FunctionalGroups", "LUT", "Pixel", "Plane", "ImageCenterPoint"})


def planted_everywhere(data: Dataset) -> None:
    """A word in every text, an item with names in every sequence that has no say in the image, and private ones."""
    for tag in (known for known in DicomDictionary if known >= 0x00080000):
        keyword, kind = keyword_for_tag(tag), dictionary_VR(tag)
        if kind in _TEXTS and keyword:
            setattr(data, keyword, "Zaphod")
        elif kind == "DA" and keyword:
            setattr(data, keyword, "19610203")
        elif kind == "SQ" and keyword and not any(word in keyword for word in _READ):
            item = Dataset()
            item.PatientName, item.PatientID, item.CodeMeaning = "Beeblebrox^Zaphod", "MRN-4711", "secret remark"
            setattr(data, keyword, [item])
    data.private_block(0x0011, "Dr. Marvin", create=True).add_new(1, "LO", "secret remark")
    data.PatientID, data.PatientAge, data.SpecificCharacterSet = "MRN-4711", "064Y", "ISO_IR 192"


@pytest.mark.parametrize("frames", ["one", "many"])
def test_an_anonymous_segmentation_takes_nothing_but_uids_and_geometry(
    store: StoreLayout, tmp_path: Path, frames: str
) -> None:
    slices = ct_slices(6) if frames == "one" else [enhanced_ct(6)]
    for data in slices:
        planted_everywhere(data)
    if frames == "many":
        groups = slices[0].PerFrameFunctionalGroupsSequence[0]
        groups.PlanePositionSequence[0].PatientComments = groups.FrameComments = "secret remark"
        slices[0].SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PatientName = "Beeblebrox^Zaphod"
    save(tmp_path / "archive", slices)
    asked = request(tmp_path / "archive", tmp_path)
    assert segment_here(store, asked, tmp_path / "named", "dicom-seg")[1] == {"segmented": 1}
    assert {"Zaphod", "Beeblebrox", "MRN-4711", "19610203"} <= found_in(tmp_path / "named")
    run, counts, _ = segment_here(store, asked, tmp_path / "out", "dicom-seg", anonymous=True)
    assert counts == {"segmented": 1}
    assert found_in(tmp_path / "out") == set()
    (file,) = (tmp_path / "out").glob("*.dcm")
    written = pydicom.dcmread(file)
    assert not [word for word in (*PLANTED, "064Y", "nobody") if word.lower() in str(written).lower()]
    assert written.StudyInstanceUID == slices[0].StudyInstanceUID
    assert written.FrameOfReferenceUID == slices[0].FrameOfReferenceUID
    (patient,) = latest_cases(store, run.cohort)["patient_id"]
    assert written.PatientID == patient


def test_no_warning_of_a_library_names_the_patient(
    store: StoreLayout, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    slices = ct_slices(6)
    for data in slices:
        data.PatientName = "Zaphod"
    save(tmp_path / "archive", slices)
    asked = request(tmp_path / "archive", tmp_path)
    segment_here(store, asked, tmp_path / "out", "dicom-seg")
    assert not [item for item in recwarn if "Zaphod" in str(item.message)]


def test_a_patient_has_one_pseudonym_in_all_series_and_another_under_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path / "a" / "one", planted_slices(4))
    save(tmp_path / "a" / "two", planted_slices(5))
    save(tmp_path / "a" / "three", ct_slices(4, PatientID="other"))
    first = [case.patient_id for case in listed(tmp_path / "a")[2]]
    assert len(set(first)) == 2
    assert all(len(patient) == 18 and patient.startswith("p-") for patient in first)
    monkeypatch.setenv("MEDSAM3_KEY_FILE", str(tmp_path / "other.key"))
    assert not set(first) & {case.patient_id for case in listed(tmp_path / "a")[2]}


def test_the_key_is_for_its_owner_alone_and_never_inside_a_store(key_file: Path, tmp_path: Path) -> None:
    key = load_key()
    assert len(key) == 32
    assert key == load_key()
    assert key_file.stat().st_mode & 0o077 == 0
    with pytest.raises(UsageError, match=r"lies inside .*; move it out and name it in MEDSAM3_KEY_FILE"):
        load_key(outside=tmp_path)


@pytest.mark.parametrize("name", ["..", "../../etc", "a/../../b", ". .", "\x00", "x" * 300, "-rf", "CON", "ä\nö"])
def test_no_name_from_outside_leaves_the_store(store: StoreLayout, name: str) -> None:
    from medsam3_core.cases.cases import slug_case_id

    path = store.volume("cohort", slug_case_id(name), zipped=False)
    assert path.resolve().is_relative_to(store.root.resolve())
    assert path.parent.parent == store.cohort("cohort") / "volumes"


@pytest.mark.parametrize(
    "words",
    [
        ["ingest", "archive", "--cohort", "c"],
        ["ingest", "archive", "--check"],
        ["segment", "archive", "--weights", "baseline:box", "--prompts", "p.csv", "--out", "out"],
    ],
)
def test_no_command_makes_or_uses_a_key_inside_its_store(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    save(tmp_path / "archive", planted_slices())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDSAM3_KEY_FILE", str(store / "keys" / "patients.key"))
    with pytest.raises(UsageError, match=r"patients\.key lies inside .*store; move it out"):
        cli.main([*words, "--store", str(store)], standalone_mode=False)
    assert not (store / "keys").exists()
