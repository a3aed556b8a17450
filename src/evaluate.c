/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *	  Running the expressions of a source: as its owner, read only, without
 *	  a trace.
 *
 * mc_evaluate() runs one query, made by us of stored expressions, for an array
 * of keys, in attempts (attempt.c) that are always rolled back; the rows are
 * copied out before.
 *
 * The query sees the snapshot of the calling statement, volatile functions in
 * it take later ones, as in any query. So an event that the caller has read is
 * never newer than what its expressions see.
 *
 * What goes wrong is a row of the result. An error that a contact's data
 * can cause is pinned down by halving the keys; any other concerns the source
 * (see source_errors). Only the primary message is passed on: detail, hint
 * and context may show other people's rows.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/tuplestore.h"

#include "attempt.h"
#include "compat.h"
#include "mailchimp_sync.h"

/* longest message that is kept, in bytes; a RAISE can be of any length */
#define MAX_MESSAGE 1000

PG_FUNCTION_INFO_V1(mc_evaluate);
PG_FUNCTION_INFO_V1(mc_error_is_lasting);

/* columns of the result, and of the query (the first two) */
enum
{
	CONTACT_KEY,
	VALUE,
	ERROR_STATE,
	ERROR_MESSAGE,
	N_COLUMNS
};
#define N_QUERY_COLUMNS 2

typedef struct Evaluation
{
	McAttempt attempt;
	const char *query;
	TupleDesc query_desc;
	TupleDesc result_desc;
	Tuplestorestate *result;
	bool keys_are_null;
	Datum keys;			   /* of the attempt */
	Tuplestorestate *rows; /* that it returned */
	int n_errors;		   /* rows with an error in the result */
	ErrorData *failure;	   /* of the source as a whole */
} Evaluation;

/*
 * Classes of errors that no single contact can be blamed for. Those that last
 * until somebody changes the definition or the schema stop the source; the
 * others pass by themselves. Everything else (22, 23, P0, users' own, but also
 * XX, which many C functions raise for bad data) may be a contact's.
 */
static const struct
{
	const char *state_class;
	bool lasting;
} source_errors[] = {
	{"42", true},  /* syntax, missing objects, missing rights */
	{"25", true},  /* tries to write */
	{"0A", true},  /* not supported */
	{"2D", true},  /* tries to commit */
	{"3F", true},  /* missing schema */
	{"57", false}, /* our timer, shutdown */
	{"53", false}, /* out of memory, disk, connections */
	{"55", false}, /* locked */
	{"40", false}, /* deadlock, serialization */
	{"08", false}, /* a foreign server is out of reach */
	{"HV", false}, /* foreign data wrapper */
	{"58", false}, /* I/O */
	{"72", false}, /* snapshot too old */
};

static bool evaluating = false;

static void
run_query(void *arg)
{
	Evaluation *evaluation = arg;
	SPIExecuteOptions options = {0};
	DestReceiver *receiver = CreateDestReceiver(DestTuplestore);
	int result;

	SetTuplestoreDestReceiverParams(receiver, evaluation->rows, evaluation->attempt.scratch, true,
									evaluation->query_desc,
									"the query does not return a key and a value");
	options.params = makeParamList(1);
	options.params->params[0].ptype = TEXTARRAYOID;
	options.params->params[0].pflags = PARAM_FLAG_CONST;
	options.params->params[0].value = evaluation->keys;
	options.params->params[0].isnull = evaluation->keys_are_null;
	options.read_only = true;
	options.must_return_tuples = true;
	options.dest = receiver;
	SPI_connect();
	result = SPI_execute_extended(evaluation->query, &options);
	if (result < 0)
		elog(ERROR, "%s", SPI_result_code_string(result));
	SPI_finish();
}

/* Copies what an attempt returned to the result. */
static void
keep_rows(Evaluation *evaluation)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(evaluation->query_desc, &TTSOpsMinimalTuple);

	while (tuplestore_gettupleslot(evaluation->rows, true, false, slot))
	{
		Datum values[N_COLUMNS] = {0};
		bool nulls[N_COLUMNS] = {true, true, true, true};

		slot_getallattrs(slot);
		for (int i = 0; i < N_QUERY_COLUMNS; i++)
		{
			values[i] = slot->tts_values[i];
			nulls[i] = slot->tts_isnull[i];
		}
		tuplestore_putvalues(evaluation->result, evaluation->result_desc, values, nulls);
	}
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * Runs the query for these keys and keeps its rows, if the caller wants them.
 * Returns NULL, or the error in the scratch context.
 */
static ErrorData *
attempt(Evaluation *evaluation, Datum *keys, bool *nulls, int n, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ErrorData *error;
	int lower_bound = 1;

	MemoryContextReset(evaluation->attempt.scratch);
	MemoryContextSwitchTo(evaluation->attempt.scratch);
	evaluation->keys = PointerGetDatum(
		construct_md_array(keys, nulls, 1, &n, &lower_bound, TEXTOID, -1, false, TYPALIGN_INT));
	/* belongs to our resource owner, so that it outlives the subtransaction */
	evaluation->rows = tuplestore_begin_heap(false, false, work_mem);
	MemoryContextSwitchTo(context);

	error = mc_attempt(&evaluation->attempt, run_query, evaluation);
	if (error == NULL && keep)
		keep_rows(evaluation);
	tuplestore_end(evaluation->rows);
	return error;
}

/* The entry of source_errors, or -1: a contact's data may be the reason. */
static int
find_source_error(const char *state)
{
	for (int i = 0; i < (int) lengthof(source_errors); i++)
		if (strncmp(state, source_errors[i].state_class, 2) == 0)
			return i;
	return -1;
}

/* Whether the error stops a source until it is defined anew; else it is tried again. */
Datum
mc_error_is_lasting(PG_FUNCTION_ARGS)
{
	int found = find_source_error(text_to_cstring(PG_GETARG_TEXT_PP(0)));

	PG_RETURN_BOOL(found >= 0 && source_errors[found].lasting);
}

/* key NULL: the error is the source's */
static void
put_error(Evaluation *evaluation, Datum key, bool key_is_null, ErrorData *error)
{
	Datum values[N_COLUMNS] = {0};
	bool nulls[N_COLUMNS] = {key_is_null, true, false, false};
	const char *message = error->message != NULL ? error->message : _("missing error text");
	int length = pg_mbcliplen(message, strlen(message), MAX_MESSAGE);

	values[CONTACT_KEY] = key;
	values[ERROR_STATE] = CStringGetTextDatum(unpack_sql_state(error->sqlerrcode));
	values[ERROR_MESSAGE] = PointerGetDatum(cstring_to_text_with_len(message, length));
	tuplestore_putvalues(evaluation->result, evaluation->result_desc, values, nulls);
	evaluation->n_errors++;
}

/*
 * Evaluates the keys; false: the source as a whole failed, see failure.
 *
 * An error is followed into the halves of the keys, down to single ones. One that
 * none of the parts shows is the whole's if it comes again: a query that
 * walks the source takes a position, not contacts.
 */
static bool
evaluate_keys(Evaluation *evaluation, Datum *keys, bool *nulls, int n)
{
	int n_errors = evaluation->n_errors;
	ErrorData *error = attempt(evaluation, keys, nulls, n, true);

	if (error == NULL)
		return true;
	if (find_source_error(unpack_sql_state(error->sqlerrcode)) < 0)
	{
		if (n == 1)
		{
			put_error(evaluation, keys[0], nulls[0], error);
			return true;
		}
		if (n > 1)
		{
			if (!evaluate_keys(evaluation, keys, nulls, n / 2) ||
				!evaluate_keys(evaluation, keys + n / 2, nulls + n / 2, n - n / 2))
				return false;
			if (evaluation->n_errors > n_errors)
				return true;
			error = attempt(evaluation, keys, nulls, n, false);
			if (error == NULL)
				return true;
		}
	}
	evaluation->failure = error;
	return false;
}

bool
mc_is_evaluating(void)
{
	return evaluating;
}

static void
evaluate(Evaluation *evaluation, ArrayType *keys)
{
	Datum *elements = NULL;
	bool *nulls = NULL;
	int n = 0;

	if (keys != NULL)
		deconstruct_array(keys, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	evaluation->keys_are_null = keys == NULL;
	if (!evaluate_keys(evaluation, elements, nulls, n))
	{
		/* half a result is none */
		tuplestore_clear(evaluation->result);
		put_error(evaluation, (Datum) 0, true, evaluation->failure);
	}
}

static TupleDesc
make_query_desc(void)
{
	TupleDesc desc = CreateTemplateTupleDesc(N_QUERY_COLUMNS);

	TupleDescInitEntry(desc, CONTACT_KEY + 1, "contact_key", TEXTOID, -1, 0);
	TupleDescInitEntry(desc, VALUE + 1, "value", JSONBOID, -1, 0);
	TupleDescFinalize(desc);
	return desc;
}

static void
prepare(Evaluation *evaluation, Oid role, text *query, ReturnSetInfo *result)
{
	mc_attempt_prepare(&evaluation->attempt, role);
	evaluation->query = text_to_cstring(query);
	evaluation->query_desc = make_query_desc();
	evaluation->result_desc = result->setDesc;
	evaluation->result = result->setResult;
}

/*
 * evaluate(role, query, keys): the query's rows, or what was wrong with which
 * key; one row with a null key: what is wrong with the source.
 *
 * Not within itself: the expression of one source could ask for another's.
 */
Datum
mc_evaluate(PG_FUNCTION_ARGS)
{
	Evaluation evaluation = {0};

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("role and query must not be null")));
	if (evaluating)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("an expression of a source cannot evaluate expressions of sources")));
	InitMaterializedSRF(fcinfo, 0);
	prepare(&evaluation, PG_GETARG_OID(0), PG_GETARG_TEXT_PP(1),
			(ReturnSetInfo *) fcinfo->resultinfo);
	evaluating = true;
	PG_TRY();
	{
		evaluate(&evaluation, PG_ARGISNULL(2) ? NULL : PG_GETARG_ARRAYTYPE_P(2));
	}
	PG_FINALLY();
	{
		evaluating = false;
	}
	PG_END_TRY();
	MemoryContextDelete(evaluation.attempt.scratch);
	return (Datum) 0;
}
