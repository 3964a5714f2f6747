"""Episodes token by token: what the teacher thought of each, kept in the run's folder and shown on one page.

The page is one file that loads nothing from elsewhere. Its only script is its own.
"""

from .page import entry_of, newest_first, shown, token_page, write_token_page
from .records import TOKEN_FOLDER, Piece, TokenEpisode, TokenFiles, read_rows

__all__ = [
    "TOKEN_FOLDER",
    "Piece",
    "TokenEpisode",
    "TokenFiles",
    "entry_of",
    "newest_first",
    "read_rows",
    "shown",
    "token_page",
    "write_token_page",
]
