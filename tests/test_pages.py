"""Pages of the dashboard on stores written by hand, run in this process without a browser."""

from dashboards import queries
from dashboards.figures import history_figure
from tests.catalog_store import HandmadeStore, at


def test_lines_of_the_history_are_those_of_one_split(tmp_path):
    made = HandmadeStore(tmp_path)
    for case, split in (("c1", "train"), ("c2", "test")):
        made.case(case, split=split)
    for version, run in ((1, "run1"), (2, "run2")):
        made.run(run, weights_version=version)
        made.scored(run, "c1", 0.9, finished_at=at(version))
        made.scored(run, "c2", 0.1 * version, finished_at=at(version))
    lines = {line.name: list(line.y) for line in history_figure(queries.history(made.layout), {}).data}
    assert lines == {"net, text, split test": [0.1, 0.2], "net, text, split train": [0.9, 0.9]}
    made.case("c1", split="test", ingested_at=at(9))
    assert [line.name for line in history_figure(queries.history(made.layout), {}).data] == ["net, text"]
