/*-------------------------------------------------------------------------
 *
 * evaluate.c
 *	  Running the expressions of a source: as its owner, read only, without
 *	  a trace.
 *
 * mc_evaluate() runs one query, made by us of stored expressions, for an array
 * of keys. An attempt is an internal subtransaction that is always rolled back;
 * its rows are copied out before. Whoever calls, the expressions have the rights
 * of the source's owner: the security context keeps them from changing roles
 * and from leaving prepared statements, held cursors, temporary tables or
 * LISTEN behind; rolling back takes away notifications, large objects, settings and
 * row changes of dynamic SQL that got round "read only"; what a rollback does
 * not know (session-level advisory locks) is put back by hand.
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
 * Races that are closed:
 *	- A cancel request and our own timer use the same flag of the backend. The
 *	  request is noted by a SIGINT handler of our own, so it is raised even when
 *	  both come at once, or when an expression caught it; the timer's is
 *	  withdrawn before anything after the attempt looks at the flag.
 *	- An expression that catches the timer's error is interrupted again
 *	  and again, and its result is not used. (One that catches it for ever
 *	  runs until the backend is terminated, as under statement_timeout.)
 *
 * What is left behind: an empty value of a setting that nobody declared
 * ("my.setting"), the seed of random(), libraries that were loaded, what was
 * sent out of this database (dblink, pg_logical_emit_message), and for a
 * superuser's expressions whatever a superuser can do outside of tables.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tstoreReceiver.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "advisory.h"
#include "compat.h"
#include "mailchimp_sync.h"

/* how often an expression that caught the timer's error is interrupted again */
#define INSIST_MS 10

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
	Oid role;
	const char *query;
	TimestampTz deadline;
	McAdvisoryLocks *locks; /* that the session held before */
	TupleDesc query_desc;
	TupleDesc result_desc;
	Tuplestorestate *result;
	MemoryContext scratch; /* of one attempt */
	bool keys_are_null;
	int n_errors;		/* rows with an error in the result */
	ErrorData *failure; /* of the source as a whole */
} Evaluation;

/*
 * What every expression runs with, so that the same contact has the same values
 * in a worker and in anybody's preview. All that changes the meaning or the text form of
 * values and that an ordinary role may set, but for default_text_search_config,
 * which belongs to the site. Notices would go to whoever looks at a preview.
 */
static const struct
{
	const char *name;
	const char *value;
} settings[] = {
	{"search_path", "pg_catalog, pg_temp"},
	{"row_security", "on"},
	{"datestyle", "ISO, MDY"},
	{"timezone", "UTC"},
	{"timezone_abbreviations", "Default"},
	{"intervalstyle", "postgres"},
	{"extra_float_digits", "1"},
	{"bytea_output", "hex"},
	{"lc_monetary", "C"},
	{"lc_numeric", "C"},
	{"lc_time", "C"},
	{"xmlbinary", "base64"},
	{"xmloption", "content"},
	{"array_nulls", "on"},
	{"quote_all_identifiers", "off"},
	{"standard_conforming_strings", "on"},
	{"backslash_quote", "safe_encoding"},
	{"transform_null_equals", "off"},
	{"gin_fuzzy_search_limit", "0"},
	/* the engine plans its own statements otherwise */
	{"plan_cache_mode", "auto"},
	{"client_min_messages", "error"},
	/* last: a setting may be changed in a read-only transaction, this one not back */
	{"transaction_read_only", "on"},
};

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

/*
 * The timer and the cancel requests of one attempt, set by signal handlers.
 */
static volatile sig_atomic_t expired;
static volatile sig_atomic_t cancelled;
static TimeoutId timer = MAX_TIMEOUTS;
static struct sigaction former_sigint;
static bool former_read_only;

static void
interrupt_query(void)
{
	QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* Called by the timeout module in a signal handler, which may set timers itself. */
static void
handle_timer(void)
{
	expired = true;
	interrupt_query();
	enable_timeout_after(timer, INSIST_MS);
}

/*
 * What the handler of backends and workers does, and a note of it. lock_timeout
 * comes this way too, but is an error like others.
 */
static void
handle_sigint(int signo)
{
	int save_errno = errno;

	if (!get_timeout_indicator(LOCK_TIMEOUT, false))
		cancelled = true;
	interrupt_query();
	errno = save_errno;
}

/* Up to 15, RESET makes a read-only transaction writable again, unless that is its default. */
static void
start_guard(TimestampTz deadline)
{
	struct sigaction action = {.sa_handler = handle_sigint, .sa_flags = SA_RESTART};

	cancelled = false;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, &former_sigint);
	enable_timeout_at(timer, deadline);
	former_read_only = mc_set_default_read_only(true);
}

/*
 * From here on no signal of the timer comes. Its request to cancel is taken
 * back; one that somebody else made is put back if it came in between.
 */
static void
stop_guard(void)
{
	(void) mc_set_default_read_only(former_read_only);
	disable_timeout(timer, false);
	if (expired)
		QueryCancelPending = false;
	if (cancelled)
		QueryCancelPending = true;
	sigaction(SIGINT, &former_sigint, NULL);
}

/* Raises the cancel request that came during an attempt, whatever became of it there. */
static void
raise_cancel(ErrorData *error)
{
	if (cancelled)
	{
		if (error != NULL && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		{
			/* in the words of whoever asked for it, statement_timeout for one */
			QueryCancelPending = false;
			ReThrowError(error);
		}
		interrupt_query();
	}
	CHECK_FOR_INTERRUPTS();
}

/*
 * Everything is undone by the abort of the subtransaction: settings, read only,
 * user and security context.
 */
static void
become_owner_of_source(Oid role)
{
	for (size_t i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i].name, settings[i].value, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_LOCAL, true, 0, false);
	SetUserIdAndSecContext(role, SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

static void
run_query(Evaluation *evaluation, Datum keys, Tuplestorestate *rows)
{
	SPIExecuteOptions options = {0};
	DestReceiver *receiver = CreateDestReceiver(DestTuplestore);
	int result;

	SetTuplestoreDestReceiverParams(receiver, rows, evaluation->scratch, true,
									evaluation->query_desc,
									"the query does not return a key and a value");
	options.params = makeParamList(1);
	options.params->params[0].ptype = TEXTARRAYOID;
	options.params->params[0].pflags = PARAM_FLAG_CONST;
	options.params->params[0].value = keys;
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
keep_rows(Evaluation *evaluation, Tuplestorestate *rows)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(evaluation->query_desc, &TTSOpsMinimalTuple);

	while (tuplestore_gettupleslot(rows, true, false, slot))
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

static ErrorData *
timer_error(void)
{
	ErrorData *error = palloc0(sizeof(ErrorData));

	error->sqlerrcode = ERRCODE_QUERY_CANCELED;
	if (mc_expression_timeout % 1000 == 0)
		error->message =
			psprintf("expressions took longer than mailchimp_sync.expression_timeout (%d s)",
					 mc_expression_timeout / 1000);
	else
		error->message =
			psprintf("expressions took longer than mailchimp_sync.expression_timeout (%d ms)",
					 mc_expression_timeout);
	return error;
}

/*
 * Runs the query for these keys and keeps its rows, if the caller wants them.
 * Returns NULL, or the error in the scratch context.
 */
static ErrorData *
attempt(Evaluation *evaluation, Datum *keys, bool *nulls, int n, bool keep)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	Tuplestorestate *rows;
	Datum array;
	int lower_bound = 1;

	MemoryContextReset(evaluation->scratch);
	MemoryContextSwitchTo(evaluation->scratch);
	array = PointerGetDatum(
		construct_md_array(keys, nulls, 1, &n, &lower_bound, TEXTOID, -1, false, TYPALIGN_INT));
	/* belongs to our resource owner, so that it outlives the subtransaction */
	rows = tuplestore_begin_heap(false, false, work_mem);

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(evaluation->scratch);
	start_guard(evaluation->deadline);
	PG_TRY();
	{
		become_owner_of_source(evaluation->role);
		run_query(evaluation, array, rows);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(evaluation->scratch);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	stop_guard();
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(evaluation->scratch);
	CurrentResourceOwner = owner;

	mc_advisory_locks_restore(evaluation->locks);
	raise_cancel(error);
	if (expired)
		error = timer_error();
	if (error == NULL && keep)
		keep_rows(evaluation, rows);
	tuplestore_end(rows);
	MemoryContextSwitchTo(context);
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

static bool
role_exists(Oid role)
{
	return SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role));
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
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, handle_timer);
	expired = false;
	evaluation->role = role;
	evaluation->query = text_to_cstring(query);
	evaluation->deadline =
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), mc_expression_timeout);
	evaluation->locks = mc_advisory_locks();
	evaluation->query_desc = make_query_desc();
	evaluation->result_desc = result->setDesc;
	evaluation->result = result->setResult;
	evaluation->scratch = AllocSetContextCreate(CurrentMemoryContext, "mailchimp_sync expressions",
												ALLOCSET_DEFAULT_SIZES);
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
	ErrorData no_role = {0};

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
	if (!role_exists(evaluation.role))
	{
		no_role.sqlerrcode = ERRCODE_UNDEFINED_OBJECT;
		no_role.message =
			psprintf("role with OID %u, the owner of the source, does not exist", evaluation.role);
		put_error(&evaluation, (Datum) 0, true, &no_role);
		return (Datum) 0;
	}
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
	MemoryContextDelete(evaluation.scratch);
	return (Datum) 0;
}
