"""`make full`: all commands with checkpoints of full size, killed and resumed on the way.

    python -m benchmarks.full [--folder DIR] [--part weights|fundus|ct|ct-text|segment] [--tiny] [--data DIR]

Writes checkpoints with 840 million parameters (seeded, untrained) in the released and the bare layout into a folder
outside the repository and registers them. With both it predicts on CHASE_DB1 with every kind of prompt, benchmarks two
images, kills and resumes the benchmark, and benchmarks other prompts with cached encodings. On the abdominal CT, at
504 pixels, it benchmarks a box on one slice followed by the tracker, killed and resumed, then a text on every slice
with liver with the cached encodings, and runs `segment`. Prints wall time and peak resident memory of all processes of
each step. `--part` (repeated) runs parts of it on a folder that is kept.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.full_weights import BARE, RELEASED
from benchmarks.watching import Watch
from storage.catalog.guard import run_sql
from storage.store.layout import StoreLayout

ROOT = Path(__file__).parents[1]
PARTS = ("weights", "fundus", "ct", "ct-text", "segment")
_FIRST_DONE_LIMIT_SECONDS = 3600


@dataclass(frozen=True)
class Step:
    """Exit code, cost and output of a command."""

    code: int
    seconds: float
    peak_bytes: int
    out: str
    err: str


class FullRun:
    """All steps, in order, on one store."""

    def __init__(self, folder: Path, data: Path, *, tiny: bool) -> None:
        self.folder, self.data, self.tiny = folder, data, tiny
        self.store = StoreLayout(folder / "store")
        self._environment = {**os.environ, "MEDSAM3_STORE": str(self.store.root), "HF_HUB_OFFLINE": "1"}

    def run(self, parts: Sequence[str]) -> None:
        """Run parts in order; exit with code 1 at the first step with an unexpected result."""
        steps = (self._weights, self._fundus, self._follow, self._text, self._segment)
        for name, part in zip(PARTS, steps, strict=True):
            if name in parts:
                part()

    def _weights(self) -> None:
        size = ["--tiny"] if self.tiny else []
        self._say("write checkpoints", self._python("-m", "benchmarks.full_weights", str(self.folder), *size))
        self._medsam3("add, released layout", "weights", "add", "released", str(self.folder / RELEASED))
        self._medsam3("add, bare layout", "weights", "add", "bare", str(self.folder / BARE))
        self._medsam3("check", "weights", "check", "released")

    def _fundus(self) -> None:
        self._predict()
        self._medsam3("ingest", "ingest", str(self.data / "CHASE_DB1"), "--cohort", "chase", "--limit", "2")
        self._kill_and_resume()

    def _predict(self) -> None:
        image = str(self.data / "CHASE_DB1" / "Image_01L.jpg")
        prompts = {
            "text": ("--text", "retinal blood vessel"),
            "box": ("--box", "300,300,600,600"),
            "point": ("--point", "450,450"),
        }
        for name, words in prompts.items():
            for weights in ("released", "bare"):
                if (name, weights) == ("point", "bare"):
                    continue  # no interactive head
                out = ("--out", str(self.folder / f"{weights}-{name}.png"))
                self._medsam3(f"predict {name}, {weights}", "predict", image, "--weights", weights, *words, *out)
        refused = ("predict", image, "--weights", "bare", *prompts["point"], "--out", str(self.folder / "no.png"))
        self._medsam3("predict point, bare: refused", *refused, code=2)

    def _kill_and_resume(self) -> None:
        both = ("--cohort", "chase", "--weights", "released", "--weights", "bare", "--split", "all")
        cached = ("--cache-encodings", "2GB")
        words = ("benchmark", *both, "--prompt", "text", *cached)
        self._killed("after the first outcomes", self._any_outcome, *words)
        before = self._outcomes()
        self._medsam3("benchmark resumed", *words)
        after = self._outcomes()
        kept = [row for row in before if row in after]
        print(f"    {len(before)} outcomes before the kill, {len(kept)} of them unchanged, {len(after)} in all")
        if len(kept) != len(before) or len(after) != 4:
            sys.exit("resume lost or repeated work")
        self._medsam3("benchmark again: nothing to do", *words)
        self._medsam3("benchmark box, warm encodings", "benchmark", *both, "--prompt", "box", *cached)
        for row in self._seconds():
            print(f"    {row['weights']} {row['prompt']}: {row['seconds']:.1f} s of inference per image")

    def _killed(self, when: str, reached: Callable[[], bool], *words: str) -> None:
        """Run a command until `reached`, then kill it and its workers with SIGKILL."""
        process = subprocess.Popen(
            [sys.executable, "-m", "flows", *words], cwd=ROOT, env=self._environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        watch = Watch(process.pid)
        while process.poll() is None and not reached():
            watch.look()
            if watch.seconds > _FIRST_DONE_LIMIT_SECONDS:
                break
        ended = process.poll() is not None
        if not ended:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for child in watch.seen:
            if child.is_running():
                child.kill()
        self._say(f"{words[0]}, killed (SIGKILL) {when}", Step(0, watch.seconds, watch.peak, "", ""))
        if ended:
            sys.exit(f"the command ended before it could be killed: exit code {process.returncode}")

    def _any_outcome(self) -> bool:
        return bool(list(self.store.runs().glob("*/outcomes/*.parquet")))

    def _outcomes(self) -> list[tuple[object, ...]]:
        query = "SELECT run_id, case_id, status, finished_at FROM outcomes"
        return [tuple(row.values()) for row in run_sql(self.store, query).to_pylist()]

    def _seconds(self) -> list[dict[str, object]]:
        query = (
            "SELECT r.weights, r.prompt, avg(o.seconds_segment) AS seconds FROM outcomes o JOIN runs r USING (run_id) "
            "GROUP BY ALL ORDER BY ALL"
        )
        return run_sql(self.store, query).to_pylist()

    @property
    def _ct(self) -> str:
        return str(self.data / "ct_abdomen")

    @property
    def _half(self) -> tuple[str, ...]:
        return () if self.tiny else ("--set", "resolution=504")

    def _follow(self) -> None:
        self._medsam3("ingest CT", "ingest", self._ct, "--cohort", "ct")
        key = (*self._on_liver(), "--prompt", "box:slices=key")
        before = self._encodings()
        self._killed("after three slices", lambda: self._encodings() >= before + 3, *key)
        self._medsam3("benchmark CT resumed: key slice and tracker", *key)

    def _text(self) -> None:
        before = self._encodings()
        words = (*self._on_liver(), "--prompt", "text:slices=reference")
        self._medsam3("benchmark CT, text, warm encodings", *words)
        print(f"    {self._encodings() - before} slices encoded, all others read from the cache")

    def _segment(self) -> None:
        out = self.folder / "segmented"
        words = ("segment", self._ct, "--weights", "bare", "--text", "liver", "--out", str(out), *self._half)
        self._medsam3("segment CT by text, bare", *words)
        written = sorted(path.name for path in out.rglob("*") if path.is_file())
        print(f"    {len(written)} files written: {', '.join(written[:4])}")
        if not written:
            sys.exit("segment wrote nothing")

    def _on_liver(self) -> tuple[str, ...]:
        cases = ("--cohort", "ct", "--structure", "liver", "--split", "all", *self._half)
        return ("benchmark", *cases, "--weights", "released", "--cache-encodings", "2GB")

    def _encodings(self) -> int:
        return len(list(self.store.encodings().glob("??/*.npy")))

    def _medsam3(self, name: str, *words: str, code: int = 0) -> None:
        step = self._python("-m", "flows", *words)
        self._say(name, step)
        if step.code != code:
            print(step.out, step.err, sep="\n")
            sys.exit(f"{name}: exit code {step.code}, expected {code}")

    def _python(self, *words: str) -> Step:
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = subprocess.Popen(
                [sys.executable, *words], cwd=ROOT, env=self._environment, stdout=out, stderr=err, text=True
            )
            watch = Watch(process.pid)
            while process.poll() is None:
                watch.look()
            out.seek(0)
            err.seek(0)
            return Step(process.returncode, watch.seconds, watch.peak, out.read(), err.read())

    def _say(self, name: str, step: Step) -> None:
        print(f"{name}: {step.seconds:.1f} s, peak {step.peak_bytes / 1e9:.2f} GB, exit code {step.code}", flush=True)
        for line in step.err.strip().splitlines()[:6]:
            print(f"    {line}")


def main() -> None:
    """Run all steps, in a temporary folder unless one is given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="outside the repository; kept  [default: a temporary one]")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of CHASE_DB1")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this; repeat for several")
    parser.add_argument("--tiny", action="store_true", help="small checkpoints, for a quick run")
    arguments = parser.parse_args()
    if not (arguments.data / "CHASE_DB1").is_dir():
        sys.exit(f"no CHASE_DB1 in {arguments.data}; name its folder with --data")
    if arguments.folder is not None and arguments.folder.resolve().is_relative_to(ROOT):
        sys.exit(f"{arguments.folder} is inside the repository; choose a folder outside it for 7 GB of checkpoints")
    memory = psutil.virtual_memory().total / 1e9
    print(
        f"{'tiny' if arguments.tiny else 'full size'}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.platform()}"
    )
    parts = arguments.part or PARTS
    if arguments.folder is not None:
        FullRun(arguments.folder.resolve(), arguments.data.resolve(), tiny=arguments.tiny).run(parts)
        return
    with tempfile.TemporaryDirectory(prefix="medsam3-full-") as folder:
        FullRun(Path(folder), arguments.data.resolve(), tiny=arguments.tiny).run(parts)


if __name__ == "__main__":
    main()
