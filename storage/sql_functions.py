"""Functions that `medsam3 sql` may call. A list of what is allowed: a new DuckDB can add readers, never to this list.

Left out on purpose: all that reads files, settings, variables, secrets or the engine's own tables, that runs SQL held
in a string, writes a log, waits, or changes state (`nextval`, `setseed`).
"""

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
