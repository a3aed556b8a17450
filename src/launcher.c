/*-------------------------------------------------------------------------
 *
 * launcher.c
 *	  Keeps a worker running in each database of mailchimp_sync.databases.
 *
 * It is connected to no database. A worker that ends is started again after a
 * delay, which doubles up to a minute while it keeps ending soon (no such
 * database, no extension there, stopped by mc_stop_worker) and is forgotten
 * after a healthy period. mc_start_worker and CREATE EXTENSION end the delays,
 * also that of a worker which is still on its way out when they ask. The list of
 * databases follows a reload: what is new is started, what is gone is stopped.
 *
 * The postmaster tells by SIGUSR1 that a worker has ended. A process without a
 * database ignores that signal unless it asks for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "libpq/pqsignal.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/procsignal.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"
#include "utils/wait_event.h"

#include "mailchimp_sync.h"
#include "slot.h"
#include "worker.h"

#define MIN_DELAY_MS 1000
#define MAX_DELAY_MS 60000
/* a worker that ran for so long was healthy */
#define HEALTHY_MS 60000

typedef struct Place
{
	char database[NAMEDATALEN];
	BackgroundWorkerHandle *handle; /* NULL: none was started, or it has ended */
	TimestampTz started_at;
	TimestampTz next_start;
	int delay_ms;
	bool asked; /* start it as soon as the one before has ended */
} Place;

bool mc_preloaded = false;

/* ---- which databases ---- */

/* In real time, not by clock_offset: these are pauses of processes. */
static TimestampTz
in_ms(int ms)
{
	return TimestampTzPlusMilliseconds(GetCurrentTimestamp(), ms);
}

bool
mc_launcher_knows(const char *database)
{
	char *copy = pstrdup(mc_databases);
	List *names = NIL;
	ListCell *cell;
	bool found = false;

	/* the check hook has seen to it that it can be split */
	if (SplitGUCList(copy, ',', &names))
	{
		foreach(cell, names)
			found |= strcmp(lfirst(cell), database) == 0;
	}
	list_free(names);
	pfree(copy);
	return found;
}

static List *
add_place(List *places, const char *database)
{
	Place *place;
	ListCell *cell;

	foreach(cell, places)
	{
		if (strcmp(((Place *) lfirst(cell))->database, database) == 0)
			return places;
	}
	place = palloc0(sizeof(Place));
	strlcpy(place->database, database, sizeof(place->database));
	place->delay_ms = MIN_DELAY_MS;
	return lappend(places, place);
}

static List *
follow_list(List *places)
{
	char *copy = pstrdup(mc_databases);
	List *names = NIL;
	ListCell *cell;

	foreach(cell, places)
	{
		Place *place = lfirst(cell);

		if (mc_launcher_knows(place->database))
			continue;
		if (place->handle != NULL)
			TerminateBackgroundWorker(place->handle);
		places = foreach_delete_current(places, cell);
		if (place->handle != NULL)
			pfree(place->handle);
		pfree(place);
	}
	if (SplitGUCList(copy, ',', &names))
	{
		foreach(cell, names)
			places = add_place(places, lfirst(cell));
	}
	list_free(names);
	pfree(copy);
	return places;
}

/* ---- keeping them running ---- */

static void
note_end(Place *place)
{
	if (TimestampDifferenceExceeds(place->started_at, GetCurrentTimestamp(), HEALTHY_MS))
		place->delay_ms = MIN_DELAY_MS;
	else
		place->delay_ms = Min(place->delay_ms * 2, MAX_DELAY_MS);
	pfree(place->handle);
	place->handle = NULL;
	place->next_start = in_ms(place->delay_ms);
}

static void
start_worker(Place *place)
{
	BackgroundWorker worker;

	mc_worker_describe(&worker, InvalidOid, place->database);
	worker.bgw_notify_pid = MyProcPid;
	place->asked = false;
	place->started_at = GetCurrentTimestamp();
	place->next_start = in_ms(place->delay_ms);
	if (!RegisterDynamicBackgroundWorker(&worker, &place->handle))
	{
		place->handle = NULL;
		ereport(WARNING, (errcode(ERRCODE_INSUFFICIENT_RESOURCES),
						  errmsg("could not start the worker of database \"%s\"", place->database),
						  errhint("You may need to increase max_worker_processes.")));
	}
}

/* Starts what has to run; returns in how many ms to look again, -1: not before something happens. */
static long
tend(List *places)
{
	long wait = -1;
	bool asked = mc_launcher_asked();
	ListCell *cell;

	foreach(cell, places)
	{
		Place *place = lfirst(cell);
		pid_t pid;
		TimestampTz now = GetCurrentTimestamp();
		long rest;

		if (asked)
		{
			place->asked = true;
			place->delay_ms = MIN_DELAY_MS;
		}
		if (place->handle != NULL && GetBackgroundWorkerPid(place->handle, &pid) == BGWH_STOPPED)
			note_end(place);
		if (place->handle != NULL)
			continue;
		if (place->asked || place->next_start <= now)
			start_worker(place);
		if (place->handle != NULL)
			continue;
		rest = Max(TimestampDifferenceMilliseconds(now, place->next_start), 1);
		wait = wait < 0 ? rest : Min(wait, rest);
	}
	return wait;
}

void
mc_launcher_main(Datum arg)
{
	List *places = NIL;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGUSR1, procsignal_sigusr1_handler);
	BackgroundWorkerUnblockSignals();
	MemoryContextSwitchTo(TopMemoryContext);
	mc_launcher_register();
	places = follow_list(places);
	for (;;)
	{
		long wait = tend(places);

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (wait >= 0 ? WL_TIMEOUT : 0),
						 wait, PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			places = follow_list(places);
		}
	}
}

void
mc_launcher_start(void)
{
	BackgroundWorker worker;

	mc_preloaded = true;
	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = MIN_DELAY_MS / 1000;
	strlcpy(worker.bgw_library_name, MC_EXTENSION, sizeof(worker.bgw_library_name));
	strlcpy(worker.bgw_function_name, "mc_launcher_main", sizeof(worker.bgw_function_name));
	strlcpy(worker.bgw_name, "mailchimp_sync launcher", sizeof(worker.bgw_name));
	strlcpy(worker.bgw_type, "mailchimp_sync launcher", sizeof(worker.bgw_type));
	RegisterBackgroundWorker(&worker);
}

bool
mc_launcher_ask(const char *database)
{
	if (!mc_preloaded || !mc_launcher_knows(database))
		return false;
	mc_launcher_wake();
	return true;
}
