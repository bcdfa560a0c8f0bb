"""Files with invalid values: each rejects its own series by name, and the listing continues."""

import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.filewriter import dcmwrite
from pydicom.uid import CTImageStorage, ExplicitVRBigEndian

from storage.sources.dicom.reading import read_header
from storage.store.pseudonyms import Pseudonyms
from tests.journeys.archives.test_dicom_faults import listed, only_reason
from tests.journeys.archives.written_dicom import ct_slices, enhanced_ct, save

WITHOUT_KEY = Pseudonyms(b"")
NUMBER = b"77667766"
"""Found once in a file."""


def replant(path: Path, placeholder: bytes, value: bytes) -> None:
    """Put bytes that pydicom would refuse to write in the place of others."""
    content = path.read_bytes()
    assert content.count(placeholder) == 1
    path.write_bytes(content.replace(placeholder, value.ljust(len(placeholder))))


def reasons_beside_a_good_series(root: Path) -> tuple[str | None, str]:
    """Reasons of the series in `good`, which is written here, and of that in `odd`."""
    save(root / "good", ct_slices(4))
    reasons = {case.image[0].split("/")[0]: case.reject_reason for case in listed(root)[2]}
    assert set(reasons) == {"good", "odd"}
    return reasons["good"], str(reasons["odd"])


def spoilt_enhanced_ct() -> FileDataset:
    """A multi-frame file with numbers that are easily found in its bytes."""
    data = enhanced_ct(5)
    data.SeriesNumber = NUMBER.decode()
    data.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient[0] = "777.125"
    data.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleSlope = "3.625"
    return data


@pytest.mark.parametrize(
    ("placeholder", "value", "found"),
    [
        (NUMBER, b"inf", "odd/IM0000 has the invalid SeriesNumber 'inf'"),
        (b"777.125", b"up", "could not convert string to float: 'up'"),
        (b"3.625", b"flat", "could not convert string to float: 'flat'"),
    ],
)
def test_a_multi_frame_file_that_makes_no_sense_is_rejected_alone(
    tmp_path: Path, placeholder: bytes, value: bytes, found: str
) -> None:
    (file,) = save(tmp_path / "a" / "odd", [spoilt_enhanced_ct()])
    replant(file, placeholder, value)
    good, odd = reasons_beside_a_good_series(tmp_path / "a")
    assert good is None
    assert odd.startswith("odd-header: odd/IM0000 has ")
    assert found in odd


def with_a_position_of_two_numbers(data: FileDataset) -> None:
    data.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0].ImagePositionPatient = [1.0, 2.0]


def with_one_pixel_spacing(data: FileDataset) -> None:
    data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing = 0.8


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (with_a_position_of_two_numbers, "frame 2: ImagePositionPatient [1.0, 2.0]; 3 numbers are expected"),
        (with_one_pixel_spacing, "frame 1: PixelSpacing 0.8; 2 numbers are expected"),
    ],
)
def test_frames_of_too_few_numbers_are_rejected_alone(tmp_path: Path, spoil: Any, found: str) -> None:
    data = enhanced_ct(5)
    spoil(data)
    save(tmp_path / "a" / "odd", [data])
    good, odd = reasons_beside_a_good_series(tmp_path / "a")
    assert good is None
    assert odd.startswith("odd-header: odd/IM0000 has frames without a valid position")
    assert found in odd


def test_a_series_number_of_letters_is_a_text_like_any_other(tmp_path: Path) -> None:
    (file,) = save(tmp_path / "a" / "odd", [spoilt_enhanced_ct()])
    replant(file, NUMBER, b"A1")
    replant(file, b"777.125", b"-30.0")
    assert reasons_beside_a_good_series(tmp_path / "a") == (None, "None")


def test_a_big_endian_slice_that_makes_no_sense_rejects_its_own_series(tmp_path: Path) -> None:
    slices = ct_slices(4, SeriesNumber=NUMBER.decode())
    files = save(tmp_path / "a" / "odd", slices)
    for path, data in zip(files, slices, strict=True):
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        dcmwrite(path, data, little_endian=False, implicit_vr=False, force_encoding=True)
    replant(files[0], NUMBER, b"inf")
    good, odd = reasons_beside_a_good_series(tmp_path / "a")
    assert good is None
    assert odd.startswith("odd-header: odd/IM0000 has the invalid SeriesNumber 'inf'")


@pytest.mark.parametrize("keyword", ["NumberOfFrames", "RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [b"nan", b"inf", b"abc"])
def test_a_slice_with_letters_where_a_number_counts_rejects_its_series(
    tmp_path: Path, keyword: str, value: bytes
) -> None:
    slices = ct_slices(4)
    setattr(slices[2], keyword, NUMBER.decode())
    files = save(tmp_path / "a", slices)
    replant(files[2], NUMBER, value)
    assert only_reason(tmp_path / "a").startswith(f"odd-header: IM0002 has the invalid {keyword} {value.decode()!r}")


@pytest.mark.parametrize("keyword", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_place_of_no_numbers_without_uids_rejects_its_series(tmp_path: Path, keyword: str) -> None:
    slices = ct_slices(4, SeriesInstanceUID="", StudyInstanceUID="")
    count = len(slices[1][keyword].value)
    setattr(slices[1], keyword, ["7.125"] * count)
    files = save(tmp_path / "a", slices)
    replant(files[1], b"\\".join([b"7.125"] * count), b"\\".join([b"nan  "] * count))
    assert only_reason(tmp_path / "a").startswith(f"no-position: IM0001 has no usable {keyword} (found (nan")


def test_a_segmentation_of_odd_references_is_accounted_for(tmp_path: Path) -> None:
    odd = ct_slices(1)[0]
    odd.SOPClassUID = odd.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    segment = Dataset()
    segment.SegmentNumber, segment.SegmentLabel = 1, "liver"
    odd.SegmentSequence = [segment]
    odd.add_new("ReferencedSeriesSequence", "LO", "none")
    save(tmp_path / "a" / "odd", [odd])
    good, reason = reasons_beside_a_good_series(tmp_path / "a")
    assert good is None
    assert reason.startswith("no-pixels: ")


def test_a_file_that_moves_while_it_is_listed_is_a_fault_of_its_own(tmp_path: Path) -> None:
    (data,) = ct_slices(1, ImageComments="x" * 10_000)
    data.add_new("ContainerDescription", "UT", "y" * 20_000)  # more than the first look at a file reads
    save(tmp_path, [data])
    header = read_header(_FolderThatEmpties(tmp_path), "IM0000", WITHOUT_KEY)
    assert header is not None
    assert (str(header.fault), header.detail) == ("truncated-file", "IM0000: No such file or directory; copy it again")


class _FolderThatEmpties(type(Path())):  # type: ignore[misc]
    """A file below it is gone as soon as it has been opened once."""

    def open(self, *args: Any, **options: Any) -> Any:
        handle = super().open(*args, **options)
        self.unlink()
        return handle


def nested(levels: int) -> Dataset:
    """Sequences inside a sequence, none of which says how long it is."""
    item = Dataset()
    item.CodeMeaning = "liver" * 6
    if levels:
        item.ConceptCodeSequence = [nested(levels - 1)]
        item["ConceptCodeSequence"].is_undefined_length = True
        item.ConceptCodeSequence[0].is_undefined_length_sequence_item = True
    return item


def with_a_sequence(data: FileDataset) -> FileDataset:
    data.ReferencedImageSequence = [nested(3) for _ in range(20)]
    data["ReferencedImageSequence"].is_undefined_length = True
    return data


def test_a_file_that_ends_inside_a_sequence_rejects_its_series(tmp_path: Path) -> None:
    files = save(tmp_path / "a", [with_a_sequence(data) for data in ct_slices(4)])
    content = files[3].read_bytes()
    files[3].write_bytes(content[: content.index(b"liver" * 6, 2000) + 7])
    header = read_header(tmp_path / "a", "IM0003", WITHOUT_KEY)
    assert header is not None
    assert (str(header.fault), header.detail) == ("truncated-file", "IM0003 ends inside its header; copy it again")
    assert header.sop_class == CTImageStorage  # values before the cut are kept


@pytest.mark.parametrize("private_bytes", [100, 40_000, 300_000, 3_000_000])
def test_a_header_of_any_length_is_read(tmp_path: Path, private_bytes: int) -> None:
    slices = [with_a_sequence(data) for data in ct_slices(4)]
    for data in slices:
        data.private_block(0x29, "medsam3", create=True).add_new(0x10, "OB", b"x" * private_bytes)
    save(tmp_path / "a" / "odd", slices)
    assert reasons_beside_a_good_series(tmp_path / "a") == (None, "None")


def test_a_length_that_is_not_true_is_refused_without_room_for_it(tmp_path: Path) -> None:
    (data,) = ct_slices(1)
    block = data.private_block(0x09, "medsam3", create=True)
    block.add_new(0x10, "UN", NUMBER)
    block.add_new(0x20, "OB", b"x" * 3_000_000)
    (file,) = save(tmp_path, [data])
    length = b"UN\0\0" + len(NUMBER).to_bytes(4, "little") + NUMBER
    replant(file, length, b"UN\0\0" + (0xFFFFFFF0).to_bytes(4, "little") + NUMBER)
    tracemalloc.start()
    header = read_header(tmp_path, "IM0000", WITHOUT_KEY)
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert header is not None
    assert (str(header.fault), header.detail) == ("truncated-file", "IM0000 ends inside its header; copy it again")


def test_sequences_inside_sequences_without_end_are_a_fault_of_their_own(tmp_path: Path) -> None:
    (file,) = save(tmp_path, [with_a_sequence(ct_slices(1)[0])])
    start = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"
    opened = start + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    replant(file, start, opened * 5000 + start)
    header = read_header(tmp_path, "IM0000", WITHOUT_KEY)
    assert header is not None
    assert header.fault is not None
