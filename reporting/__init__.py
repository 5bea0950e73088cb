"""From a count to a page: results, tables, figures, the report, and what a run leaves in its folder."""

import common.compat  # noqa: F401  (must come before lightning)
