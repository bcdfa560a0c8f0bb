"""Guard of `medsam3 sql`: only a single SELECT over the catalog's views is run.

There are two barriers. The statement is parsed by DuckDB itself, so that the checked statement is the one that runs,
and every node, table and function of its tree must be on an allow list. The engine that runs it is in memory and locked
to the table folders of the store. Neither suffices alone: `COPY ... TO` works inside an allowed folder, and an allow
list may have a gap.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from medsam3_core.errors import UsageError
from storage.catalog.catalog import connect, lock_to_tables
from storage.catalog.views import PUBLIC_VIEWS, TABLE_MACROS
from storage.store.layout import StoreLayout

# Functions that `medsam3 sql` may call. It is an allow list because a new DuckDB may add functions that read files.
#
# Left out on purpose: functions that read files, settings, variables, secrets or the engine's own tables, run SQL from
# a string, write a log, wait, or change state (`nextval`, `setseed`).
TABLE_FUNCTIONS = frozenset({"compare", "generate_series", "json_each", "range", "unnest"})

_OPERATORS = "+ - * / // % ** ^ & | << >> || ~ ! !__postfix @ -> ->> ~~ !~~ ~~* !~~* ~~~ ^@ && @> <@"

_NUMBERS = """
abs acos acosh add asin asinh atan atan2 atanh bit_count cbrt ceil ceiling cos cosh cot degrees divide even exp
factorial fdiv floor fmod gamma gcd greatest isfinite isinf isnan lcm least lgamma ln log log10 log2 mod multiply
nextafter pi pow power radians random round round_even sign signbit sin sinh sqrt subtract tan tanh trunc width_bucket
xor
"""
_TEXTS = """
ascii bar char_length chr concat concat_ws contains damerau_levenshtein ends_with format hash instr jaccard
jaro_similarity jaro_winkler_similarity lcase left len length levenshtein like_escape ilike_escape not_like_escape
not_ilike_escape lower lpad ltrim md5 ord position prefix printf regexp_escape regexp_extract regexp_extract_all
regexp_full_match regexp_matches regexp_replace regexp_split_to_array repeat replace reverse right rpad rtrim sha1
sha256 split split_part starts_with str_split string_split string_to_array strip_accents strlen strpos substr
substring suffix to_base translate trim ucase unicode upper hamming mismatches
"""
_TIMES = """
age century current_date date_add date_diff date_part date_sub date_trunc datediff datepart datesub datetrunc day
dayname dayofmonth dayofweek dayofyear decade epoch epoch_ms epoch_us get_current_timestamp hour isodow isoyear julian
last_day make_date make_time make_timestamp microsecond millisecond minute month monthname now quarter second strftime
strptime time_bucket to_days to_hours to_minutes to_months to_seconds to_timestamp to_weeks to_years today
try_strptime week weekday weekofyear year yearweek
"""
_NESTED = """
array_contains array_length array_to_string array_value cardinality element_at flatten generate_subscripts json
json_array json_array_length json_contains json_exists json_extract json_extract_path json_extract_path_text
json_extract_string json_keys json_object json_type json_valid json_value list_aggregate list_any_value list_append
list_apply list_avg list_concat list_contains list_count list_distinct list_element list_extract list_filter
list_first list_has list_has_all list_has_any list_histogram list_indexof list_intersect list_last list_max
list_median list_min list_pack list_position list_prepend list_reduce list_reverse list_reverse_sort list_slice
list_sort list_stddev_samp list_sum list_transform list_unique list_value list_where list_zip map map_contains
map_entries map_extract map_from_entries map_keys map_values row row_to_json struct_extract struct_extract_at
struct_insert struct_pack to_json array_extract array_slice range generate_series unnest
"""
_CHOICES = "coalesce constant_or_null error_on_null if ifnull nullif typeof uuid gen_random_uuid"
_AGGREGATES = """
any_value approx_count_distinct approx_quantile arbitrary arg_max arg_max_null arg_min arg_min_null argmax argmin
array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count count_if count_star countif covar_pop covar_samp
entropy favg first fsum geomean geometric_mean group_concat grouping grouping_id histogram kahan_sum kurtosis
kurtosis_pop last list listagg mad max max_by mean median min min_by mode product quantile quantile_cont quantile_disc
regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy reservoir_quantile sem
skewness stddev stddev_pop stddev_samp string_agg sum sum_no_overflow sumkahan var_pop var_samp variance wavg
weighted_avg
"""
_WINDOWS = (
    "cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank rank_dense row_number"
)

_GROUPS = (_OPERATORS, _NUMBERS, _TEXTS, _TIMES, _NESTED, _CHOICES, _AGGREGATES, _WINDOWS)
FUNCTIONS = frozenset(name for group in _GROUPS for name in group.split())

_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_NODES = frozenset({"BASE_TABLE", "TABLE_FUNCTION", "SUBQUERY", "JOIN", "EXPRESSION_LIST", "EMPTY", "PIVOT"})
_PLAIN_NAME = re.compile(r"(?!duckdb_|pg_|sqlite_|pragma_|information_schema)[a-z_][a-z0-9_]*", re.IGNORECASE)


def run_sql(store: StoreLayout, text: str) -> pa.Table:
    """Run one SELECT over the views and return its rows, with the engine's types.

    Raises:
        UsageError: If the text is not one SELECT, or the engine refuses it; lists the views and their columns.
        StoreError: If a table of the store cannot be read.
    """
    with connect(store, text) as con:
        try:
            check_select(con, text)
            lock_to_tables(con, store)
            return con.sql(text).to_arrow_table()
        except (UsageError, duckdb.Error) as error:
            failure = error
    msg = f"{failure}\n{describe_views()}"
    raise UsageError(msg) from failure


def check_select(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """Refuse a text that is not one SELECT over the views.

    Raises:
        UsageError: If the text is not exactly one SELECT, or reads a table or calls a function that is not allowed.
        duckdb.Error: If it cannot be parsed.
    """
    statements = con.extract_statements(text)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(statement.type.name for statement in statements) or "nothing"
        msg = f"sql accepts one SELECT statement, got {kinds}"
        raise UsageError(msg)
    tree = _parse(con, text)
    nodes = list(_nodes(tree))
    defined = {name for node in nodes for name in _defined_names(node)}
    for name in defined:
        if not _PLAIN_NAME.fullmatch(name):
            msg = f"WITH {name!r}: choose a name of letters, digits and _ that is not a table of the engine"
            raise UsageError(msg)
    for node in nodes:
        _check_kind(node)
        _check_table(node, defined)
        _check_function(node)


def view_columns() -> dict[str, list[tuple[str, str]]]:
    """Name and type of the columns of every view, which are the same for every store."""
    with tempfile.TemporaryDirectory() as empty, connect(StoreLayout(Path(empty))) as con:
        described = {view: con.execute(f"DESCRIBE {view}").fetchall() for view in PUBLIC_VIEWS}
    return {view: [(row[0], row[1]) for row in rows] for view, rows in described.items()}


def describe_views() -> str:
    """One line per view with its columns, for error messages and help."""
    lines = [f"  {view}: {', '.join(name for name, _ in columns)}" for view, columns in view_columns().items()]
    macros = ", ".join(f"{macro}('BASE', 'NEW')" for macro in TABLE_MACROS)
    return "\n".join(["views and their columns:", *lines, f"  table macro: {macros}, weights as NAME or NAME@N"])


def _parse(con: duckdb.DuckDBPyConnection, text: str) -> Any:
    """DuckDB's own tree of the statement.

    Raises:
        UsageError: If it is not a plain SELECT, the only statement that DuckDB gives a tree of.
    """
    found = con.execute("SELECT json_serialize_sql(?)", [text]).fetchone()
    tree: dict[str, Any] = json.loads(found[0]) if found else {"error": True}
    if tree["error"] or len(tree["statements"]) != 1:
        msg = f"sql accepts one plain SELECT statement: {tree.get('error_message', 'this is another')}"
        raise UsageError(msg)
    return tree["statements"]


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for child in tree:
            yield from _nodes(child)


def _defined_names(node: dict[str, Any]) -> Iterator[str]:
    definitions = node.get("cte_map")  # of a WITH
    if isinstance(definitions, dict):
        yield from (entry["key"] for entry in definitions["map"])


def _check_kind(node: dict[str, Any]) -> None:
    """Allow only queries: a WITH can hold a DELETE, and DESCRIBE, SHOW and SUMMARIZE appear as tables."""
    kind = str(node.get("type", ""))
    is_query = kind.endswith("_NODE")
    is_table = "sample" in node and "from_table" not in node
    allowed = _QUERY_NODES if is_query else _TABLE_NODES
    if (is_query or is_table or kind == "SHOW_REF") and kind not in allowed:
        msg = f"sql accepts only SELECT, not {kind.removesuffix('_NODE').removesuffix('_REF')}"
        raise UsageError(msg)


def _check_table(node: dict[str, Any], defined: set[str]) -> None:
    if "table_name" not in node or node.get("type") != "BASE_TABLE":
        return
    name, schema, catalog = node["table_name"], node.get("schema_name", ""), node.get("catalog_name", "")
    known = {*PUBLIC_VIEWS, *(item.lower() for item in defined)}
    if name.lower() not in known or schema not in ("", "main") or catalog:
        full = ".".join(part for part in (catalog, schema, name) if part)
        msg = f"there is no view {full!r}"
        raise UsageError(msg)


def _check_function(node: dict[str, Any]) -> None:
    function = node.get("function")
    if node.get("type") == "TABLE_FUNCTION":
        name = function.get("function_name", "") if isinstance(function, dict) else ""
        _require_allowed("table function", name, TABLE_FUNCTIONS)
        return
    if "function_name" in node:
        if node.get("catalog") or node.get("schema") not in ("", None, "main"):
            msg = f"function {node['function_name']!r} may not be called with a schema"
            raise UsageError(msg)
        _require_allowed("function", node["function_name"], FUNCTIONS | TABLE_FUNCTIONS)


def _require_allowed(kind: str, name: str, allowed: frozenset[str]) -> None:
    if name.lower() not in allowed:
        msg = f"{kind} {name!r} is not available in sql"
        raise UsageError(msg)
