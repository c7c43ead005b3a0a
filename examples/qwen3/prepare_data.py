"""Step 2: turn rows into token ids and labels that training memory-maps.

    python prepare_data.py --data FILE_OR_FOLDER_OR_NAME --model FOLDER_OR_NAME [--prepared FOLDER]

Writes `train/` and `held_out/` (prepared.py has the format), and chat.json, which names the token that ends an answer. All
or nothing. `--preview 3` prints three rows instead.
"""

from __future__ import annotations

from problems import UserError, read_json

# isort: split
import argparse
import hashlib
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

import make_data
from chat import END, PAD, START, Chat, checksum
from config import Config
from encode import Encoded, encode
from folders import PREPARED, RECORD, check_output, fingerprint, resolve, shown, whole
from options import parse
from packing import Packed, padding
from prepared import IGNORED, Rows, Writer, write_questions
from rich.console import Console
from rich.text import Text
from rows import drawn, read_rows
from shapes import Row


class Counted:
    """A number of rows, and the numbers of the first few."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[int] = []

    def add(self, number: int) -> None:
        self.count += 1
        if self.count <= 8:
            self.first.append(number)

    @property
    def named(self) -> str:
        """To be put after the line that counts them."""
        more = ", ..." if self.count > len(self.first) else ""
        return f": {', '.join(map(str, self.first))}{more}" if self.count else ""


class Report:
    """What becomes of the rows."""

    def __init__(self, max_tokens: int) -> None:
        self.rows = self.kept = self.conversations = self.tokens = self.targets = 0
        self.empty, self.beyond, self.special, self.cut = Counted(), Counted(), Counted(), Counted()
        self.split, self.repeated, self.unsaid, self.as_reasoning = Counted(), Counted(), Counted(), Counted()
        self.max_tokens = max_tokens
        self.seen: set[bytes] = set()

    def see(self, row: Row) -> None:
        self.rows += 1
        content = hashlib.blake2b(repr((row.messages, row.learnt, row.prompt, row.text)).encode(), digest_size=8).digest()
        if content in self.seen:
            self.repeated.add(row.number)
        self.seen.add(content)

    def keep(self, row: Row, encoded: list[Encoded], kept: list[Encoded]) -> None:
        """`encoded`: what is learnt of the row; `kept`: what is left of that after cutting."""
        self.kept += 1
        self.conversations += bool(row.messages)
        self.tokens += sum(len(one.ids) for one in kept)
        self.targets += sum(one.targets for one in kept)
        for numbers, applies in (
            (self.cut, sum(len(one.ids) for one in encoded) > sum(len(one.ids) for one in kept)),
            (self.split, len(encoded) > 1),
            (self.unsaid, any(said not in encoded[-1].text for said in _must_be_said(row))),
            (self.as_reasoning, any(one.as_reasoning for one in encoded)),
        ):
            if applies:
                numbers.add(row.number)

    def lines(self) -> Iterator[str]:
        yield f"Dataset size: {self.rows} examples"
        yield f"Dropped {self.empty.count} rows with an empty answer{self.empty.named}"
        yield f"Dropped {self.beyond.count} rows whose answer lies beyond {self.max_tokens} tokens{self.beyond.named}"
        yield f"Dropped {self.special.count} rows that hold a chat token{self.special.named}"
        yield f"Cut {self.cut.count} rows to {self.max_tokens} tokens{self.cut.named}"
        if self.split.count:
            yield f"Split {self.split.count} rows whose earlier turns the chat template renders anew{self.split.named}"
        if self.repeated.count:
            yield f"Kept {self.repeated.count} rows that repeat an earlier one{self.repeated.named}"

    def warnings(self, chat: Chat) -> Iterator[str]:
        """What about the template may surprise a user."""
        if chat.built_in:
            yield "Warning: the checkpoint has no chat template; using that of Qwen's first releases, without reasoning"
        if self.unsaid.count:
            yield f"Warning: the chat template omits some text of {self.unsaid.count} rows{self.unsaid.named}"
        if self.as_reasoning.count:
            yield "Warning: the chat template leaves <think> open before an answer; answers are learnt as reasoning"


def _must_be_said(row: Row) -> list[str]:
    """The texts before the last answer, without reasoning, which a template may well leave away."""
    return [message["content"].rpartition("</think>")[2].strip() for message in row.messages[: max(row.learnt, default=0)]]


def usable(rows: Iterable[Row], chat: Chat, train_on: str, report: Report) -> Iterator[list[Encoded]]:
    """For each row that can be used: what is learnt of it, at most `report.max_tokens` each."""
    for row in rows:
        report.see(row)
        whole_row = encode(row, chat, train_on)
        cut = [one.cut(report.max_tokens) for one in whole_row]
        kept = [one for one in cut if one.turns and one.targets]
        if not whole_row:
            report.empty.add(row.number)
        elif any(token in text for text in row.texts for token in (PAD, START, END, chat.end_token)):
            report.special.add(row.number)
        elif not kept:
            report.beyond.add(row.number)
        else:
            report.keep(row, whole_row, kept)
            yield kept


def preview(kept: Iterator[list[Encoded]], chat: Chat, count: int) -> None:
    """Print rows with the trained tokens in colour; where there is no colour, in brackets."""
    console = Console(highlight=False, soft_wrap=True)
    before, after = ("", "") if console.is_terminal else ("⟦", "⟧")
    for encoded in islice(kept, count):
        for one in encoded:
            text = Text(f"Row {one.row.number}: {len(one.ids)} tokens, {one.targets} of them targets\n", "bold")
            for learnt, tokens in groupby(zip(one.ids, one.labels, strict=True), lambda token: token[1] != IGNORED):
                said = chat.tokenizer.decode([token for token, _ in tokens], skip_special_tokens=False)
                text.append(f"{before}{said}{after}" if learnt else said, "bold green" if learnt else "dim")
            console.print(text)


def write(folder: Path, kept: Iterable[list[Encoded]], held_out: int) -> None:
    """Write the last `held_out` rows to held_out/, the others to train/."""
    last: deque[list[Encoded]] = deque()
    with Writer(folder / "train") as train, Writer(folder / "held_out") as other:
        for encoded in kept:
            last.append(encoded)
            if len(last) > held_out:
                _add(train, last.popleft())
        for encoded in last:
            _add(other, encoded)
    write_questions(folder / "held_out", [one.questions[-1] for encoded in last for one in encoded])


def _add(writer: Writer, encoded: list[Encoded]) -> None:
    for one in encoded:
        writer.add(one.ids, one.labels)


def shares_of_padding(rows: Rows, given: argparse.Namespace) -> str:
    def share(rows: Rows | Packed, bucket: bool) -> str:
        return f"{padding(rows, argparse.Namespace(**{**vars(given), 'bucket': bucket})):.1%}"

    packed = Packed.of(rows, given.max_tokens)
    return (
        f"Padding in batches of {given.batch_size}: {share(rows, False)} of the tokens; {share(rows, True)} with --bucket,"
        f" {share(packed, given.bucket)} with --pack ({len(packed):,} rows)"
    )


def prepare(given: argparse.Namespace, model: Path, config: Config, of: dict[str, object]) -> None:
    """Write the prepared rows; or print some of them, if `preview` is given."""
    chat = Chat.open(model, "qwen3" if config.qk_norm else "qwen2")
    rows: Iterable[Row] = read_rows(given.data, given.data_revision)
    if given.rows:
        rows = drawn(rows, given.rows, given.seed)
    report = Report(given.max_tokens)
    kept = usable(rows, chat, given.train_on, report)
    if given.preview:
        preview(kept, chat, given.preview)
        return
    with whole(given.prepared, PREPARED, given.made_of) as folder:
        write(folder, kept, given.held_out)
        said = [*report.lines()]
        if report.kept <= given.held_out:
            print("\n".join(said), flush=True)
            many = f"{given.data}: {report.kept} usable rows"
            raise UserError(f"{many} are too few to hold out {given.held_out} (--held-out)")
        said += report.warnings(chat)
        said.append(shares_of_padding(Rows.open(folder / "train", config.vocab_size), given))
        said.append(f"Tokenization complete! {report.tokens:,} tokens, {report.targets:,} of them targets")
        end = chat.end_token if report.conversations else chat.text_end
        about = {"end": end, "tokenizer": checksum(model), "of": of, "said": said}
        (folder / "chat.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print("\n".join(said), flush=True)


def depends_on(given: argparse.Namespace, model: Path) -> dict[str, object]:
    """All that the prepared rows, and what is said of them, depend on."""
    options = ("rows", "held_out", "max_tokens", "train_on", "seed", "batch_size", "bucket")
    data = Path(given.data)
    data = data if data.is_file() else resolve(given.data, given.data_revision, "dataset")
    of_model = {path.name: fingerprint(path) for path in model.glob("*") if path.name.startswith(("token", "chat_template"))}
    return {"data": fingerprint(data), "model": of_model} | {name: getattr(given, name) for name in options}


def prepared_before(given: argparse.Namespace, of: dict[str, object], vocabulary: int) -> list[str] | None:
    """What was said when the same rows were prepared in the same way, if they are there and whole."""
    try:
        about, made_of = read_json(given.prepared / "chat.json"), read_json(given.prepared / RECORD)
        for part in ("train", "held_out"):
            Rows.open(given.prepared / part, vocabulary)
    except (FileNotFoundError, UserError):
        return None
    is_same = about.get("of") == of and all(made_of.get(key) == value for key, value in given.made_of.items())
    return about["said"] if is_same else None  # type: ignore[return-value]


def main() -> int:
    given = parse(__doc__, "prepare_data.py")
    print("Step 2: Preparing training data...", flush=True)
    if not given.preview:
        check_output(given.prepared, PREPARED, given.made_of)
    model = resolve(given.model, given.revision)
    config = Config.from_json(model / "config.json")
    if given.max_tokens > config.max_position_embeddings:
        raise UserError(
            f"--max-tokens {given.max_tokens}: the context of {model} is {config.max_position_embeddings} tokens"
        )
    if given.tiny_data:
        make_data.write(Path(given.data))
    of = depends_on(given, model)
    if not given.preview and (said := prepared_before(given, of, config.vocab_size)):
        print("\n".join(said))
        print(f"Reused {shown(given.prepared)}: the same rows, prepared before")
    else:
        prepare(given, model, config, of)
    return 0


if __name__ == "__main__":
    sys.exit(main())
