"""Shell-LCC guidance. Import the submodule you need; nothing is loaded here."""
