"""Figures in words, and tables of them."""


def percent(share) -> str:
    """0.0412 -> "4.12 %", and never "0.00 %" for what is not nothing."""
    return f"{100 * share:.2f} %" if share == 0 or share >= 5e-5 else f"{100 * share:.1g} %"


def table(header, rows) -> str:
    """Columns aligned with spaces, the first to the left, the others to the right."""
    rows = [[str(cell) for cell in row] for row in [header, *rows]]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]).rstrip()
        for row in rows
    )


def sizes_in_words(sizes) -> str:
    """Codes of each level: "256" where all have as many, else "32, 256 and 256"."""
    words = [f"{size:,}" for size in sizes]
    return words[0] if len(set(words)) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
