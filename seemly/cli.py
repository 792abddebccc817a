"""The command line: `seemly --help` lists the commands, which stand in `seemly.commands`."""

import typer

from seemly.commands.batch import batch
from seemly.commands.elsewhere import add_elsewhere
from seemly.commands.finished import appeal, explain, reproduce
from seemly.commands.moderating import moderate
from seemly.commands.pictures import compare, demo, generate
from seemly.commands.processes import gateway, serve, worker

app = typer.Typer(
    help="Pictures from text, kept decent, with a verdict on every picture.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (demo, serve, generate, compare, batch, explain, reproduce, appeal, moderate, gateway, worker):
    app.command()(command)
add_elsewhere(app)

if __name__ == "__main__":
    app()
