"""From the text of PTX to instructions: one entry, its parameters, registers, shared arrays and labels."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

BITS = {
    "pred": 1, "b8": 8, "u8": 8, "s8": 8, "b16": 16, "u16": 16, "s16": 16, "f16": 16,
    "bf16": 16, "b32": 32, "u32": 32, "s32": 32, "f32": 32, "tf32": 32, "b64": 64, "u64": 64, "s64": 64, "f64": 64,
}  # fmt: skip

_OPERAND = re.compile(r"\{[^}]*\}|\[[^\]]*\]|[^,\s]+")


@dataclass(frozen=True)
class Instruction:
    """One instruction: ``@guard op.modifiers operands``."""

    op: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    guard: str | None  # a predicate register
    wanted: bool  # of the guard
    line: str

    @property
    def type(self) -> str:
        """The last modifier that is a type."""
        return next(m for m in reversed(self.modifiers) if m in BITS)


@dataclass
class Program:
    """One kernel.

    Parameters
    ----------
    text : str
        A module of PTX with one entry.
    """

    text: str
    name: str = ""
    parameters: dict[str, tuple[str, int]] = field(default_factory=dict)  # type and offset
    registers: dict[str, int] = field(default_factory=dict)  # bits, by the letters of their names
    shared: dict[str, tuple[int, int]] = field(default_factory=dict)  # offset and bytes
    local: dict[str, tuple[int, int]] = field(default_factory=dict)
    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text = re.sub(r"//.*", "", self.text)
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        entries = re.findall(r"\.entry\s+([\w$.]+)\s*\(([^)]*)\)[^{]*\{", text)
        if len(entries) != 1:
            raise ValueError(f"the module must have one entry; got {len(entries)}")
        if re.search(r"\.func\b", text):
            raise ValueError("the module has a function that was not inlined")
        self.name, parameters = entries[0]
        offset = 0
        for kind, name in re.findall(r"\.param\s+\.(\w+)[^,]*?([\w$]+)\s*(?:,|$)", parameters.strip()):
            size = BITS[kind] // 8
            offset = -(-offset // size) * size
            self.parameters[name] = kind, offset
            offset += size
        begin = text.index("{", text.index(".entry"))
        before, body = text[: text.index(".entry")], text[begin + 1 : text.rindex("}")]
        for where in (before, body):
            self._arrays(where)
        self._body(body)

    def _arrays(self, text: str) -> None:
        for space, align, name, size in re.findall(
            r"\.(shared|local)\s+\.align\s+(\d+)\s+\.b8\s+([\w$.]+)\[(\d+)\]\s*;", text
        ):
            held = self.shared if space == "shared" else self.local
            end = max((at + n for at, n in held.values()), default=0)
            held[name] = -(-end // int(align)) * int(align), int(size)

    def _body(self, body: str) -> None:
        # Labels end with a colon, all else with a semicolon; braces open and close scopes of registers.
        scopes: list[dict[str, str]] = [{}]
        for statement in re.split(r";|(?<=:)\s", body):
            line = " ".join(statement.split())
            while line[:1] in ("{", "}"):
                if line[0] == "{":
                    scopes.append({})
                else:
                    scopes.pop()
                line = line[1:].lstrip()
            if not line or line.startswith((".loc", ".pragma", ".shared", ".local")):
                continue
            if line.startswith(".reg"):
                kind, names = re.fullmatch(r"\.reg \.(\w+) (.*)", line).groups()  # type: ignore[union-attr]
                for name in names.replace(" ", "").split(","):
                    letters = name.partition("<")[0]
                    if len(scopes) > 1:
                        # Registers of inline assembly: instances of it use the same names.
                        own = f"%{letters}.{len(self.registers)}."
                        scopes[-1][letters] = own
                        letters = own
                    self.registers[letters] = BITS[kind]
            elif line.endswith(":"):
                self.labels[line[:-1]] = len(self.instructions)
            else:
                self.instructions.append(_instruction(_renamed(line, scopes)))


def _renamed(line: str, scopes: list[dict[str, str]]) -> str:
    """Return a line with the registers of its scopes under names that are theirs alone."""
    for scope in reversed(scopes[1:]):
        for name, own in scope.items():
            line = re.sub(rf"(?<![\w%.$]){re.escape(name)}(?![\w.$])", own, line)
    return line


def _instruction(line: str) -> Instruction:
    guard, wanted, rest = None, True, line
    if line.startswith("@"):
        head, rest = line[1:].split(None, 1)
        wanted, guard = not head.startswith("!"), head.removeprefix("!")
    name, _, tail = rest.partition(" ")
    op, *modifiers = name.split(".")
    return Instruction(op, tuple(modifiers), tuple(_OPERAND.findall(tail.replace("|", ","))), guard, wanted, line)
