"""What stands on stdout: exact for programs, fit to the terminal for people, nothing else."""

import io
import json
from datetime import datetime

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from flows.cli.answers.leaderboard import leaderboard_notes, leaderboard_rows, print_leaderboard
from flows.messages.tables import print_table, to_csv, to_json
from tests.stores.catalog import HandmadeStore

TABLE = pa.table(
    {
        "case_id": ["a", 'b,"c"\nd', None, ""],
        "dice": [0.1, 1 / 3, None, 12345.678],
        "n": [1, -2, None, 2**53 + 1],
        "at": [datetime(2026, 1, 2, 3, 4, 5), None, None, None],
        "raters": [["x"], [], None, ["y", "z"]],
    }
)


def test_csv_reads_back_exactly():
    read = pyarrow.csv.read_csv(
        io.BytesIO(to_csv(TABLE).encode()),
        parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True, quoted_strings_can_be_null=False),
    )
    assert read.select(["case_id", "dice", "n"]).to_pydict() == TABLE.select(["case_id", "dice", "n"]).to_pydict()


def test_csv_tells_null_from_empty_text():
    assert to_csv(TABLE).splitlines()[-2:] == [",,,,", '"",12345.678,9007199254740993,,"[""y"", ""z""]"']


def test_json_reads_back_exactly():
    rows = json.loads(to_json(TABLE))
    assert [row["dice"] for row in rows] == TABLE["dice"].to_pylist()
    assert rows[0] == {"case_id": "a", "dice": 0.1, "n": 1, "at": "2026-01-02T03:04:05", "raters": ["x"]}


def test_json_keeps_columns_of_the_same_name():
    assert json.loads(to_json(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"]))) == [
        {"a": 1, "a_2": 2}
    ]


def test_parquet_on_stdout_is_the_table(capsysbinary):
    print_table(TABLE, "parquet")
    assert pq.read_table(io.BytesIO(capsysbinary.readouterr().out)).equals(TABLE)


def test_table_shows_null_and_counts_rows(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    print_table(TABLE.select(["case_id", "dice"]).slice(2, 1))
    out = capsys.readouterr().out
    names, _, values, rows = out.splitlines()
    assert (names.split(), values.split(), rows) == (["case_id", "dice"], ["NULL", "NULL"], "(1 row)")


def test_text_that_looks_like_markup_is_shown_as_it_is(capsys):
    print_table(pa.table({"prompt": ["[red]box[/red]"]}))
    assert "[red]box[/red]" in capsys.readouterr().out


def test_table_wider_than_the_terminal_puts_rows_under_each_other(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    print_table(pa.table({f"column_{n:02d}": [n] for n in range(30)}))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "row 1"
    assert [line.split() for line in lines[1:31]] == [[f"column_{n:02d}", str(n)] for n in range(30)]


def test_table_without_rows_says_so(capsys):
    print_table(TABLE.slice(0, 0))
    assert "(0 rows)" in capsys.readouterr().out


def test_unknown_format_is_refused():
    with pytest.raises(ValueError, match="'xml' is not a valid TableFormat"):
        print_table(TABLE, "xml")


@pytest.fixture
def store(tmp_path):
    made = HandmadeStore(tmp_path)
    for case in ("c1", "c2", "c3", "c4"):
        made.case(case)
    made.run("run1", weights="tiny-untrained", prompt="box:jitter=0.1,per=instance", privileged=True)
    made.plan("run1", "c1", "c2", "c3", "c4")
    made.scored("run1", "c1", 0.5)
    made.scored("run1", "c2", 0.7, in_training=True)
    made.scored("run1", "c3", None)
    return made.layout


def test_leaderboard_fits_100_columns_and_shows_its_denominators(store):
    console = Console(width=100, file=io.StringIO())
    print_leaderboard(leaderboard_rows(store), console)
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 100
    text = " ".join(" ".join(lines).split())
    assert "hearts, split test" in text
    assert "untrained" in text
    assert "2/4 +1 t1" in text
    assert "0.500 [one patient]" in text
    assert "5.0 mm" in text


def test_notes_explain_the_marks_that_are_used(store):
    notes = " ".join(leaderboard_notes(leaderboard_rows(store)))
    for text in ("privileged", "dice0 is the mean Dice with failed cases counted as 0", "are pending", "Untrained"):
        assert text in notes
    plain = leaderboard_rows(store)[0] | {"privileged": False, "failed": 0, "pending": 0, "in_training": 0}
    assert len(leaderboard_notes([plain | {"weights": "net"}])) == 1


def test_leaderboard_of_chosen_runs(store):
    assert [row["run_id"] for row in leaderboard_rows(store, ["run1", "other"])] == ["run1"]
    assert leaderboard_rows(store, []) == []


def test_leaderboard_without_scores_says_what_to_do():
    console = Console(width=100, file=io.StringIO())
    print_leaderboard([], console)
    assert "medsam3 benchmark" in console.file.getvalue()
