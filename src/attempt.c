/*-------------------------------------------------------------------------
 *
 * attempt.c
 *	  Running what others wrote as the role that it belongs to.
 *
 * An attempt is an internal subtransaction. Whoever calls, what runs in it has the
 * rights of the role: the security context keeps it from changing roles and from leaving prepared
 * statements, held cursors, temporary tables, LISTEN or deferred triggers behind. One that reads is
 * read only and always rolled back: that takes away notifications, large objects,
 * settings and row changes of dynamic SQL that got round "read only". One that
 * writes is kept, if it did not fail. What neither knows
 * (session-level advisory locks) is put back by hand.
 *
 * Races that are closed:
 *	- A cancel request and our own timer use the same flag of the backend. The
 *	  request is noted by a SIGINT handler of our own, so it is raised even when
 *	  both come at once, or when an expression caught it; the timer's is
 *	  withdrawn before anything after the attempt looks at the flag.
 *	- An expression that catches the timer's error is interrupted again
 *	  and again, and its result is not used. (One that catches it for ever
 *	  runs until the backend is terminated, as under statement_timeout.)
 *	- A trigger of the CRM, in an attempt that writes, may call one of our functions
 *	  that makes an attempt: each has its timer and its note of a cancel request.
 *	- A deferred trigger would run at commit, as the engine. None is left: all constraints are checked
 *	  at once, and PostgreSQL refuses to queue a trigger for later in this security context.
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
#include "executor/spi.h"
#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timeout.h"

#include "attempt.h"
#include "compat.h"
#include "mailchimp_sync.h"

/* how often an expression that caught the timer's error is interrupted again */
#define INSIST_MS 10

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
};

/*
 * The timer and the cancel requests of one attempt, set by signal handlers.
 */
static volatile sig_atomic_t expired;
static volatile sig_atomic_t cancelled;
static TimeoutId timer = MAX_TIMEOUTS;

/* What an attempt puts back, and the one around it */
typedef struct Guard
{
	struct Guard *outer;
	TimestampTz deadline;
	struct sigaction former_sigint;
	bool reads;
	bool former_read_only;
	bool was_expired; /* before: of the one around it */
	bool was_cancelled;
	bool expired; /* afterwards: this one */
	bool cancelled;
} Guard;

static Guard *guard = NULL;

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
start_guard(Guard *new, const McAttempt *attempt)
{
	struct sigaction action = {.sa_handler = handle_sigint, .sa_flags = SA_RESTART};

	new->outer = guard;
	new->deadline = attempt->deadline;
	if (guard != NULL)
		new->deadline = Min(new->deadline, guard->deadline);
	new->was_expired = expired;
	new->was_cancelled = cancelled;
	new->reads = !attempt->writes;
	guard = new;
	expired = false;
	cancelled = false;
	sigemptyset(&action.sa_mask);
	sigaction(SIGINT, &action, &new->former_sigint);
	enable_timeout_at(timer, new->deadline);
	if (new->reads)
		new->former_read_only = mc_set_default_read_only(true);
}

/*
 * From here on no signal of the timer comes. Its request to cancel is taken
 * back; one that somebody else made is put back if it came in between.
 */
static void
stop_guard(Guard *done)
{
	if (done->reads)
		(void) mc_set_default_read_only(done->former_read_only);
	disable_timeout(timer, false);
	done->expired = expired;
	done->cancelled = cancelled;
	if (expired)
		QueryCancelPending = false;
	if (cancelled)
		QueryCancelPending = true;
	sigaction(SIGINT, &done->former_sigint, NULL);
	guard = done->outer;
	expired = done->was_expired;
	cancelled = done->was_cancelled || done->cancelled;
	if (guard != NULL)
		enable_timeout_at(timer, guard->deadline);
}

/* Raises the cancel request that came during an attempt, whatever became of it there. */
static void
raise_cancel(const Guard *done, ErrorData *error)
{
	if (done->cancelled)
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

static void
set_locally(const char *name, const char *value, GucContext context)
{
	(void) set_config_option(name, value, context, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Everything is undone by the abort of the subtransaction: settings, read only,
 * user and security context.
 */
static void
become_role(const McAttempt *attempt)
{
	for (size_t i = 0; i < lengthof(settings); i++)
		set_locally(settings[i].name, settings[i].value, PGC_USERSET);
	set_locally("search_path", attempt->writes ? attempt->search_path : "pg_catalog, pg_temp",
				PGC_USERSET);
	if (attempt->writes)
		/* the triggers of the CRM fire, and ours, whatever the session of mc_run does without */
		set_locally("session_replication_role", "origin", PGC_SUSET);
	else
		/* the variable of the setting transaction_read_only, which from 17 on no function may set for a while */
		XactReadOnly = true;
	SetUserIdAndSecContext(attempt->role,
						   SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

/* Nothing is left to the commit, which would run it as somebody else. */
static void
check_at_once(void)
{
	SPI_connect();
	if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
		elog(ERROR, "%s", SPI_result_code_string(SPI_result));
	SPI_finish();
}

static ErrorData *
timer_error(const McAttempt *attempt)
{
	ErrorData *error = palloc0(sizeof(ErrorData));
	const char *what = attempt->writes ? "writing" : "expressions";

	error->sqlerrcode = ERRCODE_QUERY_CANCELED;
	if (mc_expression_timeout % 1000 == 0)
		error->message = psprintf("%s took longer than mailchimp_sync.expression_timeout (%d s)",
								  what, mc_expression_timeout / 1000);
	else
		error->message = psprintf("%s took longer than mailchimp_sync.expression_timeout (%d ms)",
								  what, mc_expression_timeout);
	return error;
}

static ErrorData *
role_error(Oid role)
{
	ErrorData *error = palloc0(sizeof(ErrorData));

	error->sqlerrcode = ERRCODE_UNDEFINED_OBJECT;
	error->message = psprintf("role with OID %u, the owner of the source, does not exist", role);
	return error;
}

/* Inside of the subtransaction, all of it. An attempt that was interrupted is not kept, even if it caught that. */
static void
run_attempt(const McAttempt *attempt, void (*work)(void *arg), void *arg)
{
	Oid userid;
	int sec_context;
	int nest_level = NewGUCNestLevel();

	GetUserIdAndSecContext(&userid, &sec_context);
	become_role(attempt);
	if (attempt->writes)
		check_at_once();
	work(arg);
	if (!attempt->writes)
		return;
	disable_timeout(timer, false);
	if (expired || cancelled)
		ereport(ERROR, (errcode(ERRCODE_QUERY_CANCELED), errmsg("was interrupted")));
	/* false: a SET of a trigger would stay in force in the engine's session */
	AtEOXact_GUC(false, nest_level);
	SetUserIdAndSecContext(userid, sec_context);
	ReleaseCurrentSubTransaction();
}

void
mc_attempt_prepare(McAttempt *attempt, Oid role)
{
	if (timer == MAX_TIMEOUTS)
		timer = RegisterTimeout(USER_TIMEOUT, handle_timer);
	attempt->role = role;
	attempt->deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), mc_expression_timeout);
	attempt->locks = mc_advisory_locks();
	attempt->scratch = AllocSetContextCreate(CurrentMemoryContext, "mailchimp_sync attempt",
											 ALLOCSET_DEFAULT_SIZES);
}

ErrorData *
mc_attempt(const McAttempt *attempt, void (*work)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile error = NULL;
	Guard new = {0};

	MemoryContextSwitchTo(attempt->scratch);
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(attempt->role)))
	{
		error = role_error(attempt->role);
		MemoryContextSwitchTo(context);
		return error;
	}
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(attempt->scratch);
	start_guard(&new, attempt);
	PG_TRY();
	{
		run_attempt(attempt, work, arg);
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(attempt->scratch);
		error = CopyErrorData();
		FlushErrorState();
	}
	PG_END_TRY();
	stop_guard(&new);
	if (error != NULL || !attempt->writes)
		RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(attempt->scratch);
	CurrentResourceOwner = owner;

	mc_advisory_locks_restore(attempt->locks);
	raise_cancel(&new, error);
	if (new.expired && (error != NULL || !attempt->writes))
		error = timer_error(attempt);
	MemoryContextSwitchTo(context);
	return error;
}
