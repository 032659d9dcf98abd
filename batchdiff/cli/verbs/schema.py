"""``batchdiff schema``: print one of the JSON Schemas that ship with batchdiff."""

from __future__ import annotations

import argparse
import json

from batchdiff.cli.console import Console
from batchdiff.errors import EXIT_DONE
from batchdiff.plan.json_schema import schema_of


def run(console: Console, arguments: argparse.Namespace) -> int:
    """Run the verb."""
    schema = schema_of(arguments.schema)
    console.result(json.dumps(schema, indent=2))
    console.event("schema", name=arguments.schema, schema=schema)
    return EXIT_DONE
