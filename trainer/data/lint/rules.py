"""List the rules of the linter. Their ids are stable: recipes, `report.json` and scripts rely on them.

F: form of the rows. S: separation of the sides. Q: quality. B: balance. P: personal data. T: tokens. F014, F015, Q010,
Q011 and T need a tokenizer: `trainer pack` reports them, all others `trainer data`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.shapes.report import Severity


@dataclass(frozen=True)
class Rule:
    """One check, with its severity, title and fix."""

    id: str
    severity: Severity
    title: str
    fix: str


_SEE_REJECTED = "correct the rows at their source: trainer inspect RECIPE --rejected lists them"

RULES: dict[str, Rule] = {
    rule.id: rule
    for rule in (
        Rule("F001", "warning", "rows that cannot be read", _SEE_REJECTED),
        Rule("F002", "warning", "rows that are no objects", _SEE_REJECTED),
        Rule("F003", "warning", "rows of an unknown layout", "set data.sources[].format or mapping"),
        Rule("F004", "info", "rows of several layouts in one source", "give each layout a source of its own"),
        Rule("F005", "warning", "rows without turns", _SEE_REJECTED),
        Rule("F006", "warning", "values of a wrong type", _SEE_REJECTED),
        Rule("F007", "warning", "turns of an unknown role", _SEE_REJECTED),
        Rule("F008", "warning", "rows without an assistant turn", _SEE_REJECTED),
        Rule("F009", "info", "turns after the last answer", ""),
        Rule("F010", "warning", "turns in an order that no chat template renders", _SEE_REJECTED),
        Rule("F011", "warning", "empty turns", _SEE_REJECTED),
        Rule("F012", "warning", "tool calls that their schema does not allow", "correct the calls, or the row's tools"),
        Rule("F013", "warning", "characters that no tokenizer takes", _SEE_REJECTED),
        Rule(
            "F014",
            "error",
            "rows that the chat template does not render as they are",
            "change the rows, or give a template that takes them in model.chat_template",
        ),
        Rule("F015", "error", "rows that train no token", "remove them, or see pack.loss_on and the weights of turns"),
        Rule("F016", "warning", "chosen equals rejected", _SEE_REJECTED),
        Rule("F017", "warning", "chosen and rejected answer different prompts", _SEE_REJECTED),
        Rule("F018", "warning", "labels that are not true or false", _SEE_REJECTED),
        Rule(
            "F019",
            "warning",
            "special tokens inside the text",
            "give the turns as `messages` before any template; data.clean.special_tokens: true removes tokens at the "
            "ends of turns, data.clean.extra_special_tokens names more of them",
        ),
        Rule("F020", "warning", "data sets of the hub without a revision", "set data.sources[].revision to a commit"),
        Rule(
            "F021",
            "warning",
            "columns that are not trained, though their names say what they mean",
            "read them by data.sources[].format or mapping, or leave them out on purpose, for example "
            'mapping: {context: ""}',
        ),
        Rule("F022", "warning", "calls of tools that the row does not list", "give the tools of the row in `tools`"),
        Rule("F023", "info", "rows whose answers are equally good", ""),
        Rule(
            "F024", "warning", "turns of other speakers inside an answer", "cut the answers there, or make them turns"
        ),
        Rule(
            "F025",
            "warning",
            "prompts that hold a prompt template already",
            "take the frame out (### Instruction:, Human: ... Assistant:): the chat template adds its own",
        ),
        Rule(
            "F026",
            "warning",
            "reasoning that is never closed",
            "close it (</think>) and add the answer, or delete them",
        ),
        Rule(
            "F027",
            "warning",
            "reasoning in some rows only",
            "give all rows reasoning or none, or tell them apart: chat_template_kwargs: {enable_thinking: false}",
        ),
        Rule("F028", "warning", "one tool with different parameters", "use the schema that will be served in all rows"),
        Rule("S001", "error", "training rows that also stand in held-out data", "drop them: data.contamination"),
        Rule("S002", "error", "training rows nearly equal to held-out rows", "drop them: data.contamination"),
        Rule("S003", "error", "prompts that are trained and also tested", "drop them: data.contamination"),
        Rule("S004", "error", "long passages shared with test data", "drop them: data.contamination"),
        Rule(
            "S005",
            "warning",
            "a small share of held-out rows",
            "set data.split.heldout: 0.2, or give data.split.heldout_path",
        ),
        Rule("S006", "warning", "classes missing from one side", "add rows of these classes, or merge classes"),
        Rule("S007", "warning", "few held-out rows", "bring more rows, or give data.split.heldout_path"),
        Rule("Q001", "info", "exact duplicates", ""),
        Rule("Q002", "info", "near duplicates", "look at them: trainer inspect RECIPE --rejected near_duplicate"),
        Rule(
            "Q003", "warning", "different answers to the same prompt", "decide which answer is right, delete the others"
        ),
        Rule(
            "Q004",
            "warning",
            "text decoded wrongly (mojibake)",
            "switch data.clean on, or read the file as it is coded",
        ),
        Rule("Q005", "info", "invisible or decomposed characters", "switch data.clean on"),
        Rule("Q006", "info", "HTML residue outside code", "switch data.clean on, or strip the tags at the source"),
        Rule("Q007", "info", "white space around the text or many empty lines", "switch data.clean on"),
        Rule("Q008", "warning", "answers that look cut off", "complete the answers, or delete these rows"),
        Rule("Q009", "info", "answers of unusual length", "read them; delete what is not meant so"),
        Rule("Q010", "info", "rows over the longest length", "raise pack.max_length, or shorten the rows"),
        Rule(
            "Q011",
            "warning",
            "prompts that fill the longest length alone",
            "raise pack.max_length, or shorten the prompts",
        ),
        Rule("Q012", "info", "languages that do not match", "check the rows; give each language enough of them"),
        Rule("Q013", "warning", "answers that repeat the prompt", "replace these answers"),
        Rule("Q014", "warning", "answers that repeat themselves", "replace these answers"),
        Rule("Q015", "warning", "boilerplate in answers", "remove it: the model will say it in every answer"),
        Rule("Q016", "warning", "placeholders in answers", "fill them in, or delete these rows"),
        Rule("Q017", "warning", "answers that differ in form from the other JSON answers", "use one form for all"),
        Rule(
            "Q018",
            "warning",
            "answers that are chosen in one pair and rejected in another",
            "decide which of the pairs is right, delete the other",
        ),
        Rule(
            "Q019",
            "warning",
            "hidden text and direction controls",
            "switch data.clean on; ask where they come from: such text can carry orders that no reader sees",
        ),
        Rule("Q020", "warning", "letters of another script that look alike", "write the words in one script"),
        Rule("Q021", "warning", "words with spaces between their letters", "scan them again, or delete these rows"),
        Rule("Q022", "warning", "code that does not parse", "correct the code, or delete these rows"),
        Rule("Q023", "warning", "sums with a wrong result", "correct the results, or delete these rows"),
        Rule("Q024", "warning", "answers of no words", "delete these rows"),
        Rule("Q025", "warning", "answers that name another assistant or its maker", "delete them, or put your name in"),
        Rule("Q026", "warning", "stock phrases in many answers", "cut them: the model will say them in every answer"),
        Rule("Q027", "warning", "JSON answers that do not parse", "correct them: trainer inspect RECIPE --rule Q027"),
        Rule("Q028", "warning", "JSON values whose type changes", "use one type for each key"),
        Rule(
            "Q029",
            "warning",
            "missing values that are written as text",
            "leave these cells empty, so that their rows are left out; where the word is the answer: "
            "data.lint.ignore: [Q029]",
        ),
        Rule("B001", "warning", "few training rows", "add rows: 50 good ones are the least, 100 and more are usual"),
        Rule("B002", "warning", "system prompts that differ", "set data.system_prompt with when: replace"),
        Rule("B003", "info", "answers that decline or ask back", "add, or remove, some of them"),
        Rule("B004", "warning", "unbalanced classes", "add rows of the small classes, or merge classes"),
        Rule("B005", "info", "single and multi-turn rows mixed", ""),
        Rule("B006", "info", "prompts that occur several times", "check that their answers agree"),
        Rule(
            "B007",
            "info",
            "prompts that all begin alike",
            "vary the wording, or put the instruction into the system prompt",
        ),
        Rule(
            "B008", "warning", "one side of the pairs is longer", "add pairs whose better answer is shorter (or longer)"
        ),
        Rule("B009", "warning", "good and bad answers are unbalanced", "add rows of the rarer label"),
        Rule("B010", "info", "rows that fill the slots of one pattern", ""),
        Rule("B011", "warning", "classes spelled in several ways", "use one spelling for each class"),
        Rule("B012", "warning", "one answer to very many prompts", "delete most of these rows, or vary the answers"),
        Rule(
            "B013",
            "warning",
            "one system prompt with other details in each row",
            "set data.system_prompt with when: replace, or serve the details in the same place",
        ),
        Rule("P001", "warning", "e-mail addresses", "set data.pii.types: {email: redact}"),
        Rule("P002", "warning", "phone numbers", "set data.pii.types: {phone: redact}"),
        Rule("P003", "warning", "payment cards", "set data.pii.types: {card: redact}"),
        Rule("P004", "warning", "bank accounts (IBAN)", "set data.pii.types: {iban: redact}"),
        Rule("P005", "warning", "network addresses", "set data.pii.types: {ip: redact}"),
        Rule(
            "P006",
            "warning",
            "numbers that identify a person",
            "set data.pii.types: {us_ssn: redact}, or whichever it is",
        ),
        Rule("P007", "warning", "postal addresses", "set data.pii.types: {address: redact}"),
        Rule("P008", "info", "names of persons", "look at them: a name model is never sure"),
        Rule("P099", "warning", "other personal data", "set data.pii.action: redact"),
        Rule("P100", "error", "secrets", "revoke them, and set data.pii.secrets: redact"),
        Rule("T001", "info", "tokens", ""),
        Rule("T002", "info", "packs", "choose a pack.max_length that several rows fill, or set pack.packing: false"),
        Rule(
            "T003",
            "info",
            "optimizer steps",
            "lower train.global_batch_size, or raise train.num_train_epochs: the schedule needs steps",
        ),
        Rule("T004", "warning", "the chat template prints today's date", "give a template with a fixed date"),
    )
}

REASONS: dict[str, str] = {
    "invalid_json": "F001",
    "invalid_csv": "F001",
    "not_an_object": "F002",
    "unknown_format": "F003",
    "empty_messages": "F005",
    "unsupported_content": "F006",
    "invalid_weight": "F006",
    "unknown_role": "F007",
    "no_assistant_turn": "F008",
    "bad_role_order": "F010",
    "empty_content": "F011",
    "invalid_tool_arguments": "F012",
    "invalid_tools": "F012",
    "invalid_text": "F013",
    "chosen_equals_rejected": "F016",
    "prompt_mismatch": "F017",
    "invalid_label": "F018",
    "invalid_tokens": "F006",
    "row_too_long": "F001",
    "no_preference": "F023",
}
"""Reason in `rejected.jsonl` -> rule that reports it. Any other reason is F001."""
