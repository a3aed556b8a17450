/*-------------------------------------------------------------------------
 *
 * engine.c
 *	  The loop that does the work: steps in the database, requests outside.
 *
 * The same loop runs in the background worker and in CALL mc_run(). Rules that
 * it keeps: no snapshot, transaction id or relation lock is held while it waits
 * (so a request that hangs delays nobody); each transaction first makes sure
 * that this is still the extension it started with, under a lock that makes
 * DROP EXTENSION wait for one short transaction and not for a request; every
 * wait resets the latch and checks for interrupts (mc_http_wait).
 *
 * Requests that an earlier engine left under way when it died become ghosts at
 * the start (engine.sql) and go on counting against the slots.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_extension.h"
#include "commands/extension.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/memutils.h"

#include "engine.h"
#include "mailchimp_sync.h"
#include "slot.h"

/* Whoever is missed by all wakers is found after this time. */
#define FALLBACK_MS 60000
/* Something is due but cannot start (slots, somebody's lock): look again. */
#define BLOCKED_MS 1000
#define LOCK_WAIT "1s"
/* mc_run stays for work that falls due so soon: pauses between a campaign's steps, retries after doubt */
#define SOON_MS 5000
/* between two progress notices of mc_run, and how many times as long as one takes */
#define NOTICE_MS 1000
#define NOTICE_SHARE 20
/* between two clearings of what is kept no longer */
#define TIDY_MS 3600000

/* Kinds of work, most urgent first. A new kind is one line here. */
static const McKind *const kinds[] = {
	&mc_opt_out_kind, &mc_campaign_kind, &mc_test_mail_kind, &mc_erase_kind, &mc_field_kind,
	&mc_batch_kind,	  &mc_leave_kind,	 &mc_rename_kind,	 &mc_read_kind,	 &mc_poll_kind,
	&mc_tag_kind,	  &mc_push_kind,	 &mc_refresh_kind,	 &mc_look_kind,	 &mc_import_kind,
};

/*
 * Steps in the database alone: STEP() does a bit and returns how much, STEP_due()
 * says when there is more. Each has an error boundary and rests after an error.
 */
static const char *const steps[] = {"end_ghosts", "retry",		   "fold",
									"compare",	  "inbound",	   "guard",
									"reread",	  "campaign_step", "erase_clean"};

/* A kind that could not prepare its work for a connection, which will hardly be better at once */
typedef struct Rest
{
	const McKind *kind;
	char *connection;
	TimestampTz until;
} Rest;

struct McEngine
{
	const McTransaction *transaction;
	bool once;
	Oid extension;
	MemoryContext context; /* lives as long as the engine */
	MemoryContext turn;	   /* of one transaction */
	McIdentity caller;
	McHttp *http;
	char *due_query;
	TimestampTz step_rests[lengthof(steps)];
	List *rests;	 /* of Rest */
	List *unapplied; /* of McUnit: their replies are to be applied again */
	bool untold;	 /* something was done since it was looked whether there is a notice */
	char *notice;	 /* the last one shown */
	TimestampTz next_notice;
	TimestampTz next_tidy;
};

/* until the end of the transaction */
static void
set_locally(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0,
							 false);
}

static void
begin(McEngine *engine)
{
	engine->transaction->begin();
	LockDatabaseObject(ExtensionRelationId, engine->extension, 0, AccessShareLock);
	if (mc_extension_oid(true) != engine->extension)
	{
		/* an error would end a worker too, but to be started again */
		ereport(engine->once ? ERROR : LOG, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
											 errmsg("extension \"%s\" was dropped", MC_EXTENSION)));
		proc_exit(0);
	}
	MemoryContextReset(engine->turn);
	MemoryContextSwitchTo(engine->turn);
	mc_become_owner(&engine->caller);
	/* mc_run: what names and operators mean to the owner is not for its caller to say */
	set_locally("search_path", "pg_catalog, pg_temp");
	/* compiling a query takes longer than any of ours should */
	set_locally("jit", "off");
	/* and planning takes longer than running most of them; none gains by knowing its values */
	set_locally("plan_cache_mode", "force_generic_plan");
	/* whoever keeps a row of ours locked shall not halt the rest of the work */
	set_locally("lock_timeout", LOCK_WAIT);
}

static void
commit(McEngine *engine)
{
	mc_restore(&engine->caller);
	MemoryContextSwitchTo(engine->context);
	engine->transaction->commit();
}

/* ---- steps in the database ---- */

typedef struct Step
{
	const char *name;
	int64 done;
} Step;

static void
run_step(void *arg)
{
	Step *step = arg;

	MC_SQL0(psprintf("SELECT mailchimp_sync.%s()", step->name));
	step->done = mc_result_int8(0, 1, NULL);
}

static bool
work_steps(McEngine *engine)
{
	bool worked = false;

	for (size_t i = 0; i < lengthof(steps); i++)
	{
		Step step = {.name = steps[i]};
		ErrorData *error;

		if (engine->step_rests[i] > mc_clock_now())
			continue;
		begin(engine);
		if (mc_try(run_step, &step, &error))
			worked |= step.done > 0;
		else if (mc_is_contention(error))
			engine->step_rests[i] = TimestampTzPlusMilliseconds(mc_clock_now(), BLOCKED_MS);
		else
		{
			engine->step_rests[i] = TimestampTzPlusMilliseconds(mc_clock_now(), FALLBACK_MS);
			ereport(WARNING, (errcode(error->sqlerrcode),
							  errmsg("step \"%s\" failed: %s", steps[i], mc_loggable(error)),
							  mc_loggable_context(error)));
		}
		commit(engine);
	}
	return worked;
}

/* ---- requests ---- */

typedef struct Load
{
	const char *name;
	McConnection *connection;
} Load;

static void
load(void *arg)
{
	Load *l = arg;

	l->connection = mc_connection_load(l->name);
}

/*
 * The connections that may be used now, in a context of their own that lives
 * until the next look. One that cannot be loaded (its key file is gone, say)
 * says so in its state.
 */
static List *
load_connections(MemoryContext context)
{
	List *names = NIL;
	List *result = NIL;
	ListCell *cell;
	uint64 n = MC_SQL0("SELECT connection FROM mailchimp_sync.usable_connection ORDER BY 1");

	for (uint64 i = 0; i < n; i++)
		names = lappend(names, mc_result_text(i, 1));
	foreach(cell, names)
	{
		Load l = {.name = lfirst(cell)};
		ErrorData *error;
		MemoryContext old = MemoryContextSwitchTo(context);
		bool loaded = mc_try(load, &l, &error);

		if (loaded)
			result = lappend(result, l.connection);
		MemoryContextSwitchTo(old);
		if (!loaded)
			MC_SQL("SELECT mailchimp_sync.connection_replied($1, 'not_sent', 0, $2, -1)",
				   mc_arg_text(l.name), mc_arg_text(error->message));
	}
	return result;
}

static void
rest(McEngine *engine, const McKind *kind, const char *connection, int ms)
{
	MemoryContext old = MemoryContextSwitchTo(engine->context);
	Rest *found = palloc(sizeof(Rest));

	found->kind = kind;
	found->connection = pstrdup(connection);
	found->until = TimestampTzPlusMilliseconds(mc_clock_now(), ms);
	engine->rests = lappend(engine->rests, found);
	MemoryContextSwitchTo(old);
}

/* Forgets the rests that are over; of one kind and connection, or any (NULL)? */
static bool
is_resting(McEngine *engine, const McKind *kind, const char *connection)
{
	TimestampTz now = mc_clock_now();
	bool result = false;
	ListCell *cell;

	foreach(cell, engine->rests)
	{
		Rest *found = lfirst(cell);

		if (found->until <= now)
		{
			engine->rests = foreach_delete_current(engine->rests, cell);
			pfree(found->connection);
			pfree(found);
		}
		else if (kind == NULL ||
				 (found->kind == kind && strcmp(found->connection, connection) == 0))
			result = true;
	}
	for (size_t i = 0; kind == NULL && i < lengthof(steps); i++)
		result |= engine->step_rests[i] > now;
	return result;
}

/*
 * Claims and starts one unit of kind i or one that is less urgent; false: nothing is due there, or
 * no slot is free. i is the unit's then: what is more urgent was asked just now.
 */
static bool
start_unit(McEngine *engine, const McConnection *connection, size_t *i)
{
	McUnit *unit = NULL;

	begin(engine);
	for (; *i < lengthof(kinds); (*i)++)
	{
		const McKind *kind = kinds[*i];
		int slot;
		McClaim result;

		if (is_resting(engine, kind, connection->name))
			continue;
		slot = mc_slot_take(connection->slot_user, connection->max_connections, kind->spare);
		if (slot == MC_NO_SLOT)
			continue;
		unit = mc_unit_claim(kind, connection, slot, engine->context, &result);
		if (result != MC_CLAIMED)
			rest(engine, kind, connection->name,
				 result == MC_CLAIM_BLOCKED ? BLOCKED_MS : FALLBACK_MS);
		if (unit != NULL)
			break;
		mc_slot_release(slot);
	}
	commit(engine);
	if (unit != NULL)
		mc_http_start(engine->http, &unit->http);
	return unit != NULL;
}

static bool
start_units(McEngine *engine)
{
	MemoryContext context =
		AllocSetContextCreate(engine->context, "mailchimp_sync connections", ALLOCSET_SMALL_SIZES);
	List *connections;
	ListCell *cell;
	bool worked = false;

	begin(engine);
	mc_forget_bad_plans();
	connections = load_connections(context);
	commit(engine);
	foreach(cell, connections)
	{
		size_t kind = 0;

		while (start_unit(engine, lfirst(cell), &kind))
			worked = true;
	}
	MemoryContextDelete(context);
	return worked;
}

/*
 * Applies the reply; the slot is free then, or haunted if the request may still
 * run. False: later, the reply met a row which somebody's open transaction holds.
 */
static bool
finish_unit(McEngine *engine, McUnit *unit)
{
	bool applied;

	begin(engine);
	applied = mc_unit_finish(unit);
	commit(engine);
	if (!applied)
		return false;
	engine->untold = true;
	if (unit->ghost_until != 0)
		mc_slot_haunt(unit->slot, unit->ghost_until);
	else
		mc_slot_release(unit->slot);
	MemoryContextDelete(unit->context);
	return true;
}

static void
finish_again(McEngine *engine)
{
	ListCell *cell;

	foreach(cell, engine->unapplied)
	{
		if (finish_unit(engine, lfirst(cell)))
			engine->unapplied = foreach_delete_current(engine->unapplied, cell);
	}
}

static void
finish_later(McEngine *engine, McUnit *unit)
{
	MemoryContext old = MemoryContextSwitchTo(engine->context);

	engine->unapplied = lappend(engine->unapplied, unit);
	MemoryContextSwitchTo(old);
}

/* Waits for replies, the latch or the time; applies all replies that are there. */
static void
finish_units(McEngine *engine, long timeout_ms)
{
	McHttpRequest *request;

	finish_again(engine);
	if (engine->unapplied != NIL)
		timeout_ms = Min(timeout_ms, BLOCKED_MS);
	request = mc_http_wait(engine->http, timeout_ms);
	while (request != NULL)
	{
		if (!finish_unit(engine, request->owner))
			finish_later(engine, request->owner);
		request = mc_http_wait(engine->http, 0);
	}
}

/* ---- when ---- */

static char *
make_due_query(void)
{
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "SELECT least(NULL::timestamptz");
	for (size_t i = 0; i < lengthof(kinds); i++)
		appendStringInfo(&query, ", mailchimp_sync.%s_due()", kinds[i]->name);
	for (size_t i = 0; i < lengthof(steps); i++)
		appendStringInfo(&query, ", mailchimp_sync.%s_due()", steps[i]);
	appendStringInfoString(
		&query, ", (SELECT min(next_attempt_at) FROM mailchimp_sync.waiting_connection))");
	return query.data;
}

/* ms until something is due: 0 now, -1 nothing at all */
static long
due_ms(McEngine *engine)
{
	TimestampTz due;
	TimestampTz now = mc_clock_now();

	begin(engine);
	MC_SQL0(engine->due_query);
	due = mc_result_time(0, 1);
	commit(engine);
	if (TIMESTAMP_IS_NOEND(due))
		return -1;
	return due <= now ? 0 : Min(TimestampDifferenceMilliseconds(now, due), INT_MAX);
}

/* ---- telling ---- */

static void
show_progress(McEngine *engine, bool last)
{
	char *notice = NULL;
	TimestampTz now = mc_clock_now();
	long cost_ms;

	if (last ? !engine->untold : now < engine->next_notice)
		return;
	engine->untold = false;
	begin(engine);
	MC_SQL0("SELECT string_agg(line, E'\\n') FROM mailchimp_sync.progress_lines() AS line");
	notice = mc_result_text(0, 1);
	if (notice != NULL)
		notice = MemoryContextStrdup(engine->context, notice);
	commit(engine);
	/* counting a large audience takes its time: a small share of ours, at most */
	cost_ms = TimestampDifferenceMilliseconds(now, mc_clock_now());
	engine->next_notice = TimestampTzPlusMilliseconds(now, Max(NOTICE_MS, NOTICE_SHARE * cost_ms));
	if (notice != NULL && (engine->notice == NULL || strcmp(notice, engine->notice) != 0))
		ereport(NOTICE, (errmsg_internal("%s", notice)));
	if (engine->notice != NULL)
		pfree(engine->notice);
	engine->notice = notice;
}

static void
run_tidy(void *arg)
{
	MC_SQL0("SELECT mailchimp_sync.tidy()");
}

/*
 * The log of requests is kept for mailchimp_sync.log_retention; once an hour is often enough, and
 * where it fails the work goes on all the same.
 */
static void
tidy(McEngine *engine)
{
	TimestampTz now = mc_clock_now();
	ErrorData *error;

	if (engine->next_tidy > now)
		return;
	engine->next_tidy = TimestampTzPlusMilliseconds(now, TIDY_MS);
	begin(engine);
	if (!mc_try(run_tidy, NULL, &error))
	{
		engine->next_tidy = TimestampTzPlusMilliseconds(now, FALLBACK_MS);
		if (!mc_is_contention(error))
			ereport(WARNING,
					(errcode(error->sqlerrcode),
					 errmsg("could not delete what is kept no longer: %s", mc_loggable(error)),
					 mc_loggable_context(error)));
	}
	commit(engine);
}

/* ---- the loop ---- */

/* The requests of an earlier engine may still run at Mailchimp and count against the slots. */
static void
start(McEngine *engine)
{
	uint64 n;
	TimestampTz *until;
	char **connections;

	begin(engine);
	MC_SQL0("SELECT mailchimp_sync.find_ghosts()");
	n = MC_SQL0("SELECT f.ghost_until, f.connection FROM mailchimp_sync.inflight f "
				"WHERE f.ghost_until > mailchimp_sync.clock()");
	until = palloc(sizeof(TimestampTz) * Max(n, 1));
	connections = palloc(sizeof(char *) * Max(n, 1));
	for (uint64 i = 0; i < n; i++)
	{
		until[i] = mc_result_time(i, 1);
		connections[i] = mc_result_text(i, 2);
	}
	for (uint64 i = 0; i < n; i++)
	{
		Load l = {.name = connections[i]};
		ErrorData *error;

		/* a connection that is gone has no slots either */
		if (mc_try(load, &l, &error))
			mc_slot_take_ghost(l.connection->slot_user, until[i]);
	}
	commit(engine);
}

static bool
turn(McEngine *engine)
{
	bool worked;
	bool started;
	long wait;

	if (!engine->once && ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	worked = work_steps(engine);
	started = start_units(engine);
	tidy(engine);
	if (engine->once)
		show_progress(engine, false);
	engine->untold |= worked || started;
	/* what can start has started, and to ask when there is more takes less than to ask for all of it again */
	wait = worked ? 0 : due_ms(engine);
	if (worked || (started && wait == 0))
	{
		finish_units(engine, 0);
		return true;
	}
	if (engine->once && mc_http_running(engine->http) == 0 && engine->unapplied == NIL &&
		(wait < 0 || wait > SOON_MS || (wait == 0 && is_resting(engine, NULL, NULL))))
		return false;
	if (wait == 0)
		wait = BLOCKED_MS;
	else if (wait < 0 || wait > FALLBACK_MS)
		wait = FALLBACK_MS;
	finish_units(engine, wait);
	return true;
}

McEngine *
mc_engine_create(const McTransaction *transaction, bool once)
{
	McEngine *engine = palloc0(sizeof(McEngine));

	engine->transaction = transaction;
	engine->once = once;
	engine->context = AllocSetContextCreate(CurrentMemoryContext, "mailchimp_sync engine",
											ALLOCSET_DEFAULT_SIZES);
	engine->turn =
		AllocSetContextCreate(engine->context, "mailchimp_sync turn", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(engine->context);
	engine->due_query = make_due_query();
	transaction->begin();
	engine->extension = mc_extension_oid(false);
	MemoryContextSwitchTo(engine->context);
	transaction->commit();
	return engine;
}

Oid
mc_engine_extension(const McEngine *engine)
{
	return engine->extension;
}

void
mc_engine_run(McEngine *engine)
{
	MemoryContextSwitchTo(engine->context);
	engine->http = mc_http_create(engine->context);
	start(engine);
	while (turn(engine))
		CHECK_FOR_INTERRUPTS();
	if (engine->once)
		show_progress(engine, true);
}

bool
mc_engine_watch(McEngine *engine)
{
	long wait = due_ms(engine);
	bool busy;

	engine->untold = true; /* by the other one */
	show_progress(engine, false);
	begin(engine);
	MC_SQL0("SELECT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE doubt_at IS NULL)");
	busy = mc_result_bool(0, 1);
	commit(engine);
	if (busy || (wait >= 0 && wait <= SOON_MS))
		return true;
	engine->untold = true;
	show_progress(engine, true);
	return false;
}
