/*-------------------------------------------------------------------------
 *
 * inbound.c
 *	  Writing rows of the CRM, as the owner of the source.
 *
 * mc_write_rows() runs one statement, made by us (inbound_write.sql), for each row
 * that is to be written, in an attempt that is kept (attempt.c): row security, the CRM's privileges,
 * constraints and triggers apply as if the owner had written it. All rows are one attempt; only where one
 * of them fails, each becomes an attempt of its own, so that one that the CRM refuses stops no other.
 *
 * Races that are closed:
 *	- The table is locked by somebody (a migration, say): we wait for the lock once, not once for each row.
 *	- Rows are locked by somebody: each costs a wait of lock_timeout, so after a few the rest is left for later.
 *	- The triggers of the CRM take long: what the timer does not leave time for is left for later, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/tuplestore.h"
#include "utils/varlena.h"

#include "attempt.h"
#include "compat.h"
#include "mailchimp_sync.h"

/* so many rows are waited for in a call */
#define MAX_LOCKED 3
/* longest message that is kept, in bytes */
#define MAX_MESSAGE 1000

PG_FUNCTION_INFO_V1(mc_write_rows);
PG_FUNCTION_INFO_V1(mc_path_to_write);

/* columns of the result */
enum
{
	ID,
	WRITTEN,
	ERROR_STATE,
	ERROR_MESSAGE,
	N_COLUMNS
};

typedef struct Writing
{
	McAttempt attempt;
	Oid relation;
	int n;
	Datum *ids;
	Datum *statements;
	Datum *values;
	char **written; /* what the statements returned */
	MemoryContext context;
	int first; /* the rows of the attempt */
	int last;
	ReturnSetInfo *result;
} Writing;

static void
put(Writing *writing, Datum id, bool id_is_null, const char *written, const ErrorData *error)
{
	Datum values[N_COLUMNS] = {id};
	bool nulls[N_COLUMNS] = {id_is_null, true, true, true};

	if (written != NULL)
	{
		values[WRITTEN] = CStringGetTextDatum(written);
		nulls[WRITTEN] = false;
	}
	if (error != NULL)
	{
		const char *message = error->message != NULL ? error->message : _("missing error text");
		int length = pg_mbcliplen(message, strlen(message), MAX_MESSAGE);

		values[ERROR_STATE] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
		values[ERROR_MESSAGE] = PointerGetDatum(cstring_to_text_with_len(message, length));
		nulls[ERROR_STATE] = nulls[ERROR_MESSAGE] = false;
	}
	tuplestore_putvalues(writing->result->setResult, writing->result->setDesc, values, nulls);
}

static void
lock_relation(void *arg)
{
	LockRelationOid(((Writing *) arg)->relation, RowExclusiveLock);
}

/* The one value that a statement returns; none: something (a trigger, a rule) has kept it from writing */
static char *
run_statement(SPIPlanPtr plan, Datum value, MemoryContext context)
{
	int result = SPI_execute_plan(plan, &value, NULL, false, 0);
	MemoryContext old;
	char *written;

	if (result < 0)
		elog(ERROR, "%s", SPI_result_code_string(result));
	if (SPI_processed == 0)
		ereport(ERROR, (errcode(ERRCODE_NO_DATA_FOUND),
						errmsg("nothing was written, a trigger or rule of the table prevents it")));
	written = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);
	old = MemoryContextSwitchTo(context);
	written = written != NULL ? pstrdup(written) : NULL;
	MemoryContextSwitchTo(old);
	SPI_freetuptable(SPI_tuptable);
	return written;
}

/* Rows with the same statement come one after the other, so it is planned once. */
static void
write_range(void *arg)
{
	Writing *writing = arg;
	Oid type = JSONBOID;
	char *planned = NULL;
	SPIPlanPtr plan = NULL;

	SPI_connect();
	for (int i = writing->first; i < writing->last; i++)
	{
		char *statement = TextDatumGetCString(writing->statements[i]);

		if (planned == NULL || strcmp(planned, statement) != 0)
		{
			plan = SPI_prepare_cursor(statement, 1, &type, CURSOR_OPT_GENERIC_PLAN);
			if (plan == NULL)
				elog(ERROR, "%s", SPI_result_code_string(SPI_result));
			planned = statement;
		}
		CHECK_FOR_INTERRUPTS();
		writing->written[i] = run_statement(plan, writing->values[i], writing->context);
	}
	SPI_finish();
}

static ErrorData *
attempt_range(Writing *writing, int first, int last)
{
	ErrorData *error;

	MemoryContextReset(writing->attempt.scratch);
	writing->first = first;
	writing->last = last;
	error = mc_attempt(&writing->attempt, write_range, writing);
	if (error == NULL)
		for (int i = first; i < last; i++)
			put(writing, writing->ids[i], false, writing->written[i], NULL);
	return error;
}

/* Is it no single row's fault, and passes by itself? */
static bool
concerns_all(const ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return false;
	}
}

/* Row by row; who is not reached is not in the result. */
static void
write_singly(Writing *writing)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), mc_expression_timeout);
	int n_locked = 0;

	for (int i = 0; i < writing->n && GetCurrentTimestamp() < end; i++)
	{
		ErrorData *error;

		writing->attempt.deadline =
			TimestampTzPlusMilliseconds(GetCurrentTimestamp(), mc_expression_timeout);
		error = attempt_range(writing, i, i + 1);
		if (error == NULL)
			continue;
		if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
			n_locked++;
		if (concerns_all(error) || n_locked > MAX_LOCKED)
		{
			put(writing, (Datum) 0, true, NULL, error);
			return;
		}
		put(writing, writing->ids[i], false, NULL, error);
	}
}

static void
write_all(Writing *writing)
{
	ErrorData *error = mc_attempt(&writing->attempt, lock_relation, writing);

	if (error == NULL)
	{
		error = attempt_range(writing, 0, writing->n);
		if (error == NULL)
			return;
		if (!concerns_all(error))
		{
			write_singly(writing);
			return;
		}
	}
	put(writing, (Datum) 0, true, NULL, error);
}

static Datum *
elements(ArrayType *array, Oid type, int n)
{
	Datum *values;
	bool *nulls;
	int found;

	deconstruct_array(array, type, -1, false, TYPALIGN_INT, &values, &nulls, &found);
	if (found != n || array_contains_nulls(array))
		elog(ERROR, "rows to be written are not complete");
	return values;
}

/*
 * write_rows(role, relation, search_path, ids, statements, values): for each row
 * what its statement returned, or what was wrong with it; a null id: what was wrong with all that
 * are not in the result.
 */
Datum
mc_write_rows(PG_FUNCTION_ARGS)
{
	Writing writing = {.relation = PG_GETARG_OID(1), .context = CurrentMemoryContext};
	ArrayType *ids = PG_GETARG_ARRAYTYPE_P(3);

	InitMaterializedSRF(fcinfo, 0);
	writing.result = (ReturnSetInfo *) fcinfo->resultinfo;
	mc_attempt_prepare(&writing.attempt, PG_GETARG_OID(0));
	writing.attempt.writes = true;
	writing.attempt.search_path = text_to_cstring(PG_GETARG_TEXT_PP(2));
	writing.n = ArrayGetNItems(ARR_NDIM(ids), ARR_DIMS(ids));
	if (writing.n == 0)
		return (Datum) 0;
	writing.ids = elements(ids, TEXTOID, writing.n);
	writing.statements = elements(PG_GETARG_ARRAYTYPE_P(4), TEXTOID, writing.n);
	writing.values = elements(PG_GETARG_ARRAYTYPE_P(5), JSONBOID, writing.n);
	writing.written = palloc0(sizeof(char *) * writing.n);
	write_all(&writing);
	MemoryContextDelete(writing.attempt.scratch);
	return (Datum) 0;
}

/*
 * path_to_write(): the search_path of the caller, under which the triggers of the CRM will run. Temporary
 * objects come last, as they must: in mc_run they are of another session and its user.
 */
Datum
mc_path_to_write(PG_FUNCTION_ARGS)
{
	StringInfoData path;
	List *names;
	ListCell *cell;

	if (!SplitIdentifierString(pstrdup(mc_caller_search_path()), ',', &names))
		elog(ERROR, "search_path cannot be read");
	initStringInfo(&path);
	foreach(cell, names)
		if (strncmp(lfirst(cell), "pg_temp", strlen("pg_temp")) != 0)
			appendStringInfo(&path, "%s, ", quote_identifier(lfirst(cell)));
	appendStringInfoString(&path, "pg_temp");
	PG_RETURN_TEXT_P(cstring_to_text_with_len(path.data, path.len));
}
