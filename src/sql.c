/*-------------------------------------------------------------------------
 *
 * sql.c
 *	  One SQL statement with bound values, and what it returned.
 *
 * Thin over SPI, so that a call is one line where it is used. Rows are counted
 * from 0 and columns from 1. Values are read from the latest statement and
 * copied into the memory context that is current then; SPI's own, which is
 * current after SPI_connect, ends with SPI_finish.
 *
 * Statements are kept with their plans for the life of the process: an engine asks
 * the same few again and again, and planning takes longer than running. A kept plan
 * names nothing by oid that PostgreSQL would not look up again after it has changed,
 * the extension that was dropped and made again included.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "mailchimp_sync.h"

typedef struct Kept
{
	const char *query; /* the key */
	SPIPlanPtr plan;
} Kept;

/* by the text of the statement; a statement always comes with the same types */
static HTAB *kept = NULL;

McArg
mc_arg_datum(Oid type, Datum value)
{
	return (McArg){.type = type, .value = value, .isnull = false};
}

McArg
mc_arg_text(const char *value)
{
	if (value == NULL)
		return (McArg){.type = TEXTOID, .isnull = true};
	return mc_arg_datum(TEXTOID, CStringGetTextDatum(value));
}

McArg
mc_arg_int4(int32 value)
{
	return mc_arg_datum(INT4OID, Int32GetDatum(value));
}

McArg
mc_arg_int8(int64 value)
{
	return mc_arg_datum(INT8OID, Int64GetDatum(value));
}

McArg
mc_arg_bool(bool value)
{
	return mc_arg_datum(BOOLOID, BoolGetDatum(value));
}

McArg
mc_arg_time(TimestampTz value)
{
	if (TIMESTAMP_IS_NOEND(value))
		return (McArg){.type = TIMESTAMPTZOID, .isnull = true};
	return mc_arg_datum(TIMESTAMPTZOID, TimestampTzGetDatum(value));
}

McArg
mc_arg_text_array(char **values, int n)
{
	Datum *elements = palloc(sizeof(Datum) * Max(n, 1));
	bool *nulls = palloc0(sizeof(bool) * Max(n, 1));
	int lower_bound = 1;

	for (int i = 0; i < n; i++)
	{
		nulls[i] = values[i] == NULL;
		elements[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(values[i]);
	}
	if (n == 0)
		return mc_arg_datum(TEXTARRAYOID, PointerGetDatum(construct_empty_array(TEXTOID)));
	return mc_arg_datum(TEXTARRAYOID,
						PointerGetDatum(construct_md_array(elements, nulls, 1, &n, &lower_bound,
														   TEXTOID, -1, false, TYPALIGN_INT)));
}

static uint32
hash_query(const void *key, Size size)
{
	const char *query = *(const char *const *) key;

	return DatumGetUInt32(hash_any((const unsigned char *) query, (int) strlen(query)));
}

static int
compare_queries(const void *a, const void *b, Size size)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

static SPIPlanPtr
kept_plan(const char *query, int nargs, Oid *types)
{
	SPIPlanPtr plan;
	Kept *found;

	if (kept == NULL)
	{
		HASHCTL control = {.keysize = sizeof(char *),
						   .entrysize = sizeof(Kept),
						   .hash = hash_query,
						   .match = compare_queries,
						   .hcxt = TopMemoryContext};

		kept = hash_create("mailchimp_sync statements", 64, &control,
						   HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	}
	found = hash_search(kept, &query, HASH_FIND, NULL);
	if (found != NULL)
		return found->plan;

	plan = SPI_prepare_cursor(query, nargs, types, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL || SPI_keepplan(plan) != 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(SPI_result), query);
	query = MemoryContextStrdup(TopMemoryContext, query);
	found = hash_search(kept, &query, HASH_ENTER, NULL);
	found->plan = plan;
	return plan;
}

static uint64
run_statement(const char *query, int nargs, const McArg *args, bool keep)
{
	Oid *types = palloc(sizeof(Oid) * Max(nargs, 1));
	Datum *values = palloc(sizeof(Datum) * Max(nargs, 1));
	char *nulls = palloc(Max(nargs, 1));
	int result;

	for (int i = 0; i < nargs; i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
	}
	if (keep)
		result = SPI_execute_plan(kept_plan(query, nargs, types), values, nulls, false, 0);
	else
		result = SPI_execute_with_args(query, nargs, types, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), query);
	pfree(types);
	pfree(values);
	pfree(nulls);
	return SPI_processed;
}

/*
 * Runs the statement and returns how many rows it returned or changed. Its text is one of a few,
 * what differs is an argument of a type of PostgreSQL's own.
 */
uint64
mc_sql(const char *query, int nargs, const McArg *args)
{
	return run_statement(query, nargs, args, true);
}

/* One that is not kept, since it has rows of relations as arguments, which may be other types next time. */
uint64
mc_sql_once(const char *query, int nargs, const McArg *args)
{
	return run_statement(query, nargs, args, false);
}

static HeapTuple
result_row(uint64 row)
{
	if (SPI_tuptable == NULL || row >= SPI_tuptable->numvals)
		elog(ERROR, "the statement did not return row " UINT64_FORMAT, row);
	return SPI_tuptable->vals[row];
}

/* A column of any type, in the words of its output function. */
char *
mc_result_text(uint64 row, int column)
{
	return SPI_getvalue(result_row(row), SPI_tuptable->tupdesc, column);
}

static Datum
result_datum(uint64 row, int column, Oid type, bool *isnull)
{
	HeapTuple tuple = result_row(row);
	Oid found = SPI_gettypeid(SPI_tuptable->tupdesc, column);

	if (found != type)
		elog(ERROR, "column %d is of type %u, not of type %u", column, found, type);
	return SPI_getbinval(tuple, SPI_tuptable->tupdesc, column, isnull);
}

/* A column of type integer or bigint; isnull may be NULL where it cannot be. */
int64
mc_result_int8(uint64 row, int column, bool *isnull)
{
	bool null;
	int64 result;

	(void) result_row(row);
	if (SPI_gettypeid(SPI_tuptable->tupdesc, column) == INT4OID)
		result = DatumGetInt32(result_datum(row, column, INT4OID, &null));
	else
		result = DatumGetInt64(result_datum(row, column, INT8OID, &null));
	if (isnull != NULL)
		*isnull = null;
	else if (null)
		elog(ERROR, "column %d is null", column);
	return null ? 0 : result;
}

/* NULL is false, as in a WHERE clause. */
bool
mc_result_bool(uint64 row, int column)
{
	bool null;
	Datum value = result_datum(row, column, BOOLOID, &null);

	return !null && DatumGetBool(value);
}

TimestampTz
mc_result_time(uint64 row, int column)
{
	bool null;
	Datum value = result_datum(row, column, TIMESTAMPTZOID, &null);

	return null ? DT_NOEND : DatumGetTimestampTz(value);
}
