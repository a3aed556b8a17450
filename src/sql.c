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
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "mailchimp_sync.h"

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

/* Runs the statement and returns how many rows it returned or changed. */
uint64
mc_sql(const char *query, int nargs, const McArg *args)
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
	result = SPI_execute_with_args(query, nargs, types, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "%s: %s", SPI_result_code_string(result), query);
	pfree(types);
	pfree(values);
	pfree(nulls);
	return SPI_processed;
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
