"""One file a command: it reads the command line, calls the other rooms, and turns mistakes into one line."""

COMMANDS = {  # name -> module in this folder
    "compare": "compare",
    "predict": "lightning",
    "test": "lightning",
    "fit": "lightning",
    "validate": "lightning",
    "choose": "choose",
    "serve": "serve",
    "report": "report",
    "export": "export",
    "prepare": "prepare",
    "list": "list",
    "completion": "completion",
}
