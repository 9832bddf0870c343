"""The project's text uses the standard terms of the field.

The lists below contain wordings that earlier versions used in place of a standard term. They are a
guard against their return, not a definition of good style.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Regular expression -> what to write instead. Case is ignored.
PHRASES = {
    r"way back\b": "backward pass",
    r"way forth|way forward": "forward pass",
    r"forth and back": "forward and backward",
    r"named rightly|right answers": "held-out accuracy",
    r"(?<!standard )(?<!standard\n)\bdeviations?\b": "standard deviation",
    r"\bbends?\b|\bbent\b": "nonlinearity, activation",
    r"\basks? (every|each|for it|all)": "attends to",
    r"\b(hears?|heard|listens?|listened)\b": "attends to; is affected by",
    r"\baskers?\b|\bofferers?\b": "query, key",
    r"\bthought\b": "mlp_out",
    r"hands? (back|down|on|out)\b|handed (back|down|on|over)\b": "returns, passes",
    r"gives? back": "returns",
    r"is given (back|to)\b": "takes",
    r"binary digits": "mantissa bits",
    r"python's lock": "the GIL",
    r"does not do for|do not do for|will do for": "is too small for",
    r"\bproofs?\b|\bprove[sdn]?\b|\bproving\b": "verification, verify",
    r"comes? along": "is bundled",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"take away\b": "remove; ablation",
    r"told apart|tells? apart": "distinguished",
    r"\bwhoever\b|\bnobody\b|\bsomebody\b": "a caller; no one; (rephrase)",
    r"whose (it|they) (is|are)": "which layout it uses",
    r"goes on (with|from|where)|go on (with|from|where|training)|gone on\b": "resume, continue",
    r"\bbegun\b": "started",
    r"\bthereby\b|\bshall\b|\blest\b|\banew\b|\bafresh\b": "(modern English)",
    r"as it were\b": "(delete)",
    r"\bin words\b": "as a message",
    r"\bfor people\b": "as text",
    r"\bon floors\b|\bthe floors?\b": "lower bound; layer",
    r"\bstairs?\b|\brooms?\b": "layer of modules",
    r"what suits|that suits?\b|suits? (it|the|this|such)": "default, appropriate",
    r"\bas (few|many|large|small|little) as can be": "as few as possible",
    r"has done its work|done their work|\bat work\b": "is no longer needed; running",
    r"what (it|they|he) (keeps?|kept|holds?|was given|were given)": "its arguments",
    r"what (the|a) pullbacks? keeps?": "retained arrays",
    r"keeping (what|nothing)": "retaining, discarding",
    r"\bpassing (arrays?|memory)": "temporary arrays",
    r"(speaks?|spoke|speaking) for\b": "raises the logit of",
    r"\blooks? (that|which) (mattered|spoke)": "attention weights",
    r"who attends to whom|where (it|nobody|a model) looks": "attention map",
    r"\bscored?s? otherwise\b": "differs in accuracy",
    r"(?<!there )\bis no (array|file|folder|log|text|function|image|number|device|class|ViT)\b": (
        "is not a ..."
    ),
    r"refuses? what|what .{0,20} refuses": "rejects invalid values",
    r"\b(whole|there), or not( at all)?\b": "atomically",
    r"\bsave (in|for|that|where) ": "except",
    r"\bbut for\b": "except for",
    r"\bbe it\b|\bbe they\b": "(rephrase)",
    r"\blives? (in|on) ": "is stored in",
    r"\bmade good\b|\bmakes? ready\b|\bput right\b": "fixed, prepared",
    r"falls? silent": "stops responding",
    r"leads? (away|outside|nowhere)": "redirects",
    r"are believed|is believed": "are not checked",
    r"\bledgers?\b": "table of costs",
    r"\btwins?\b": "duplicate, counterpart",
    r"\bnowhere\b": "(rephrase)",
    r"\bforesees?\b|\bforeseen\b": "predicts",
    r"\bfar from (its|their|his) first values?": "away from initial values",
    r"\btheir first values?\b|\bits first value\b": "initial values",
    r"\bpictures? (is|are) brought": "preprocessing",
    r"brought to (the|a|it)": "preprocessed; resized",
    r"\bcut over\b": "split into shards",
    r"\bevery one of (these|them) choices": "each option",
    r"\bas .{0,20} ha(s|ve) it\b": "as in",
    r"\bto and fro\b": "in both directions",
    r"\bhow exactly\b": "with which precision",
    r"\bcame? to an end\b|\bcomes? to an end\b": "ends",
    r"\bin the place of\b": "instead of",
    r"\bthe looks\b": "attention weights",
    r"in the caller's hands": "owned by the caller",
    r"\bone of one's own\b": "its own",
    r"\bturned (back|round)\b": "transposed",
    r"\bgo(es)? by\b": "depend on",
}

# Identifiers of earlier versions, or of the same kind.
IDENTIFIERS = {
    r"def (moved|given|said|told|chosen|begun|turned|sent|ahead|changed|answers|shown)\b": "a verb",
    r"\bmust_[a-z]+": "check_...",
    r"\b(its|their)_[a-z_]+ =": "a noun",
    r"\bof_(block|shard|image|images|a_layer|files?)\b": "update_block, ...",
    r"\bby_blocks\b": "map_blocks",
    r"\b(rows_dot|row_dot|row_sum|row_mean|sum_rows)\b": "dot_vector, dot_rows, sum_last, ...",
    r"\bone_blas_thread\b|\bkeep_freed_memory\b": "single_threaded_blas, configure_malloc",
    r"\bmultiply_in\b|\bcupy_at_work\b|\bmodule_of\b": "set_matmul_precision, ...",
    r"\bfor_fine_tuning\b|\bpacked_gradients\b|\bbegun_(on|with)\b": "replace_head, ...",
    r"\bof_the_[a-z]+\b": "a noun",
    r"\bwith_partner\b|\bas_it_is\b|\bon_white\b": "a verb",
    r"--(rate|batch|clip|smoothing|average|accumulate|magnitude|erase)(?![-\w])": "--lr, ...",
}
RULES = PHRASES | IDENTIFIERS


def chapter_code(text: str) -> str:
    """The code of a chapter. Its prose is excluded until the book is rewritten."""
    return "\n".join("" if line.startswith("#") else line for line in text.splitlines())


def without_tables(text: str) -> str:
    """The changelog without its tables, which contain old names."""
    return "\n".join("" if line.startswith("|") else line for line in text.splitlines())


def texts() -> dict[str, str]:
    """The text of every file that the rules apply to."""
    paths = [*ROOT.glob("*.md"), *ROOT.glob("minivit/**/*.py"), *ROOT.glob("tests/**/*.py")]
    paths += [ROOT / "chapters" / name for name in ("guide.md", "measurements.md")]
    paths += [*ROOT.glob("chapters/**/*.py"), ROOT / "pyproject.toml", ROOT / ".ci" / "run"]
    excluded = {Path(__file__), ROOT / "README.ko.md"}
    found = {}
    for path in sorted(set(paths) - excluded):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        if not name.startswith(("exercises/", "runs/")):
            text = chapter_code(text) if path.parent == ROOT / "chapters" else text
            found[name] = without_tables(text) if name == "CHANGELOG.md" else text
    return found


def violations(text: str) -> list[str]:
    """Every use of a listed wording, with its line number and the replacement."""
    lines = text.splitlines()
    found = []
    for expression, replacement in RULES.items():
        for match in re.finditer(expression, text, re.IGNORECASE):
            number = text.count("\n", 0, match.start())
            found.append(f"line {number + 1}: '{lines[number].strip()}' -> {replacement}")
    return found


def test_no_text_uses_the_old_wording() -> None:
    found = [f"{name}, {v}" for name, text in texts().items() for v in violations(text)]
    assert not found, "\n" + "\n".join(found)


def test_the_lists_are_long_enough() -> None:
    assert sum(expression.count("|") + 1 for expression in RULES) >= 60


@pytest.mark.parametrize(
    "text",
    [
        "What the way back needs are the local names of the way forth.",
        "Nobody hears head 2.",
        "The share of images named rightly.",
        "def must_fit(model):",
        "train --rate 0.1",
        "the deviation of the weights",
    ],
)
def test_old_wording_is_found(text: str) -> None:
    assert violations(text)


def test_standard_wording_passes() -> None:
    assert not violations("The standard deviation of the gradient in the backward pass. --lr 0.1")
