/*-------------------------------------------------------------------------
 *
 * slot.c
 *	  What the processes of one server share.
 *
 * One struct in shared memory with plain values: the slots (one for each
 * request that is open at Mailchimp, or may be), the engines, who waits for a
 * slot, and the launcher. Preloaded, it is made at the server's start; otherwise by
 * the first process that needs it, in the slack of the main segment or, from 17
 * on, in a segment with a name. Its layout has a number in its name: two versions of
 * the library that are loaded at the same time never read each other's.
 *
 * A slot is free, held by a process, or haunted until an instant. A process
 * that ends gives back what it holds before it leaves shared memory, unless the
 * request may go on without it: then the slot is haunted, and there is no
 * moment at which another database could take it in between; a crash
 * resets all shared memory. So no entry outlives its process; that an entry's process
 * is there is still looked at where it matters, before a request is refused.
 *
 * Races: everything is read and written under one lock, in which nothing raises
 * and nothing waits. Who found no slot is noted as waiting under the same lock, so no
 * slot comes free between looking and waiting. A latch is set by number and pid of
 * its process; if that has just ended, another is woken for nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "mailchimp_sync.h"
#include "slot.h"

/* A change of the struct is a new number. */
#define SHARED_NAME "mailchimp_sync slots 1"
#define TRANCHE_NAME "mailchimp_sync"

/* 10 requests for each of 25 users, or some ghosts instead; 37 kB in all fit the slack. */
#define MAX_SLOTS 256
#define MAX_ENGINES 128
#define MAX_WAITERS 128

#define SLOT_USER_SIZE 65

/* pid 0: nobody */
typedef struct McProcess
{
	int pid;
	int number; /* of its PGPROC */
} McProcess;

typedef struct McSlot
{
	char slot_user[SLOT_USER_SIZE]; /* empty: free */
	McProcess holder;				/* nobody: haunted */
	TimestampTz expires;			/* when haunted, or would be if the holder ended; 0: never */
} McSlot;

/* who found no slot below its limit, and is to be woken when there is one */
typedef struct McWaiter
{
	McProcess process; /* nobody: free */
	int limit;
	char slot_user[SLOT_USER_SIZE];
} McWaiter;

typedef struct McEngineEntry
{
	McProcess process; /* nobody: free */
	Oid database;
	bool is_worker;
} McEngineEntry;

typedef struct McShared
{
	int tranche;
	LWLock lock;
	McProcess launcher;
	bool launcher_asked;
	McEngineEntry engines[MAX_ENGINES];
	McWaiter waiters[MAX_WAITERS];
	McSlot slots[MAX_SLOTS];
} McShared;

static McShared *shared = NULL;

static shmem_startup_hook_type prev_shmem_startup_hook = NULL;
#if PG_VERSION_NUM >= 150000
static shmem_request_hook_type prev_shmem_request_hook = NULL;
#endif

PG_FUNCTION_INFO_V1(mc_slot);

/* ---------- the struct ---------- */

static void
DSM_INIT_CALLBACK(init_shared)
{
	McShared *fresh = memory;

	memset(fresh, 0, sizeof(McShared));
	fresh->tranche = LWLockNewTrancheId(TRANCHE_NAME);
	LWLockInitialize(&fresh->lock, fresh->tranche);
}

static void
startup_hook(void)
{
	bool found;

	if (prev_shmem_startup_hook != NULL)
		prev_shmem_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct(SHARED_NAME, sizeof(McShared), &found);
	if (!found)
		INIT_DSM(init_shared, shared);
	LWLockRelease(AddinShmemInitLock);
	LWLockRegisterTranche(shared->tranche, TRANCHE_NAME);
}

static void
request_hook(void)
{
#if PG_VERSION_NUM >= 150000
	if (prev_shmem_request_hook != NULL)
		prev_shmem_request_hook();
#endif
	RequestAddinShmemSpace(MAXALIGN(sizeof(McShared)));
}

void
mc_shared_request(void)
{
#if PG_VERSION_NUM >= 150000
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_hook;
#else
	request_hook();
#endif
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_hook;
}

/* Raises where there is no shared memory left. */
static void
attach(void)
{
	bool found;
	McShared *memory;

	if (shared != NULL)
		return;
	memory = GetNamedDSMSegment(SHARED_NAME, sizeof(McShared), init_shared, &found, NULL);
	LWLockRegisterTranche(memory->tranche, TRANCHE_NAME);
	shared = memory;
}

/*
 * For a caller that must not fail, such as a transaction that has just committed.
 * Tried once: a full shared memory does not get better. Such a caller holds no
 * lightweight lock, but it holds off interrupts, which an error forgets.
 */
static bool
try_attach(void)
{
	static bool failed = false;
	MemoryContext context = CurrentMemoryContext;
	uint32 holdoff = InterruptHoldoffCount;
	uint32 cancel_holdoff = QueryCancelHoldoffCount;

	if (shared != NULL || failed)
		return shared != NULL;
	PG_TRY();
	{
		attach();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		FlushErrorState();
		LWLockReleaseAll();
		InterruptHoldoffCount = holdoff;
		QueryCancelHoldoffCount = cancel_holdoff;
		failed = true;
	}
	PG_END_TRY();
	return shared != NULL;
}

/* ---------- processes ---------- */

static McProcess
myself(void)
{
	McProcess me = {MyProcPid, MyProcNumber};

	return me;
}

static bool
is_me(const McProcess *process)
{
	return process->pid == MyProcPid;
}

static bool
is_alive(const McProcess *process)
{
	return process->pid != 0 && GetPGProcByNumber(process->number)->pid == process->pid &&
		   kill(process->pid, 0) == 0;
}

static void
wake(const McProcess *process)
{
	if (process->pid != 0 && GetPGProcByNumber(process->number)->pid == process->pid)
		SetLatch(&GetPGProcByNumber(process->number)->procLatch);
}

/* ---------- slots ---------- */

static void
free_slot(McSlot *slot)
{
	slot->slot_user[0] = '\0';
	slot->holder.pid = 0;
	slot->expires = 0;
}

static void
haunt(McSlot *slot, TimestampTz until)
{
	slot->holder.pid = 0;
	slot->expires = until;
}

static bool
is_free(const McSlot *slot, TimestampTz now)
{
	return slot->slot_user[0] == '\0' || (slot->holder.pid == 0 && slot->expires <= now);
}

static int
count_used(const char *slot_user, TimestampTz now)
{
	int used = 0;

	for (int i = 0; i < MAX_SLOTS; i++)
	{
		if (!is_free(&shared->slots[i], now) && strcmp(shared->slots[i].slot_user, slot_user) == 0)
			used++;
	}
	return used;
}

/*
 * After a slot came free. Only who would find one now is woken: engines that take a
 * slot, find nothing to do and give it back must not keep waking each other.
 */
static void
wake_waiters(TimestampTz now)
{
	for (int i = 0; i < MAX_WAITERS; i++)
	{
		McWaiter *waiter = &shared->waiters[i];

		if (waiter->process.pid == 0 || count_used(waiter->slot_user, now) >= waiter->limit)
			continue;
		wake(&waiter->process);
		waiter->process.pid = 0;
	}
}

/* A process too many is not noted, and looks again in its own time. */
static void
wait_below(const char *slot_user, int limit)
{
	McWaiter *entry = NULL;

	for (int i = 0; i < MAX_WAITERS; i++)
	{
		McWaiter *waiter = &shared->waiters[i];

		if (is_me(&waiter->process) && strcmp(waiter->slot_user, slot_user) == 0)
		{
			waiter->limit = Max(waiter->limit, limit);
			return;
		}
		if (entry == NULL && waiter->process.pid == 0)
			entry = waiter;
	}
	if (entry == NULL)
		return;
	entry->process = myself();
	entry->limit = limit;
	strlcpy(entry->slot_user, slot_user, SLOT_USER_SIZE);
}

static void
free_slots_of_the_dead(void)
{
	for (int i = 0; i < MAX_SLOTS; i++)
	{
		McSlot *slot = &shared->slots[i];

		if (slot->holder.pid != 0 && !is_alive(&slot->holder))
			free_slot(slot);
	}
}

/* A free slot, named; the caller says who has it. */
static McSlot *
claim(const char *slot_user, TimestampTz now)
{
	for (int i = 0; i < MAX_SLOTS; i++)
	{
		McSlot *slot = &shared->slots[i];

		if (is_free(slot, now))
		{
			free_slot(slot);
			strlcpy(slot->slot_user, slot_user, SLOT_USER_SIZE);
			return slot;
		}
	}
	return NULL;
}

static McSlot *
claim_below(const char *slot_user, int limit, TimestampTz now)
{
	if (count_used(slot_user, now) < limit)
		return claim(slot_user, now);
	return NULL;
}

/* An error in a foreground engine leaves nobody who would release them one by one. */
void
mc_slots_release(void)
{
	TimestampTz now = mc_clock_now();
	bool freed = false;

	if (shared == NULL)
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_SLOTS; i++)
	{
		McSlot *slot = &shared->slots[i];

		if (!is_me(&slot->holder))
			continue;
		if (slot->expires > now)
			haunt(slot, slot->expires);
		else
		{
			free_slot(slot);
			freed = true;
		}
	}
	if (freed)
		wake_waiters(now);
	LWLockRelease(&shared->lock);
}

static void
give_back_all(int code, Datum arg)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_WAITERS; i++)
	{
		if (is_me(&shared->waiters[i].process))
			shared->waiters[i].process.pid = 0;
	}
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		if (is_me(&shared->engines[i].process))
			shared->engines[i].process.pid = 0;
	}
	if (is_me(&shared->launcher))
		shared->launcher.pid = 0;
	LWLockRelease(&shared->lock);
	mc_slots_release();
}

/* Before anything of this process is noted in the struct. */
static void
join(void)
{
	static bool joined = false;

	attach();
	if (!joined)
		before_shmem_exit(give_back_all, 0);
	joined = true;
}

int
mc_slot_take(const char *slot_user, int max, int spare)
{
	int limit = Max(max - spare, 1);
	TimestampTz now = mc_clock_now();
	McSlot *slot;

	Assert(slot_user[0] != '\0');
	join();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = claim_below(slot_user, limit, now);
	if (slot == NULL)
	{
		free_slots_of_the_dead();
		slot = claim_below(slot_user, limit, now);
	}
	if (slot != NULL)
		slot->holder = myself();
	else
		wait_below(slot_user, limit);
	LWLockRelease(&shared->lock);
	return slot != NULL ? (int) (slot - shared->slots) : MC_NO_SLOT;
}

void
mc_slot_release(int slot)
{
	TimestampTz now = mc_clock_now();

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	Assert(is_me(&shared->slots[slot].holder));
	free_slot(&shared->slots[slot]);
	wake_waiters(now);
	LWLockRelease(&shared->lock);
}

void
mc_slot_expect(int slot, TimestampTz until)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	Assert(is_me(&shared->slots[slot].holder));
	shared->slots[slot].expires = until;
	LWLockRelease(&shared->lock);
}

void
mc_slot_haunt(int slot, TimestampTz until)
{
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	Assert(is_me(&shared->slots[slot].holder));
	haunt(&shared->slots[slot], until);
	LWLockRelease(&shared->lock);
}

/* Without a restart of the server in between the ghost has its slot already: the instant is its name. */
static McSlot *
find_ghost(const char *slot_user, TimestampTz until)
{
	for (int i = 0; i < MAX_SLOTS; i++)
	{
		McSlot *slot = &shared->slots[i];

		if (slot->holder.pid == 0 && slot->expires == until &&
			strcmp(slot->slot_user, slot_user) == 0)
			return slot;
	}
	return NULL;
}

void
mc_slot_take_ghost(const char *slot_user, TimestampTz until)
{
	TimestampTz now = mc_clock_now();
	McSlot *slot;

	attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	slot = find_ghost(slot_user, until);
	if (slot == NULL)
		slot = claim(slot_user, now);
	if (slot != NULL)
		haunt(slot, until);
	LWLockRelease(&shared->lock);
	if (slot == NULL)
		ereport(WARNING, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						  errmsg("all %d slots for requests to Mailchimp are taken", MAX_SLOTS),
						  errdetail("A request that may still run there is not counted.")));
}

/* slot(): the slots in use */
Datum
mc_slot(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;
	McSlot *slots;

	if (SRF_IS_FIRSTCALL())
	{
		MemoryContext old;
		TimestampTz now = mc_clock_now();

		attach();
		call = SRF_FIRSTCALL_INIT();
		old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
		if (get_call_result_type(fcinfo, NULL, &call->tuple_desc) != TYPEFUNC_COMPOSITE)
			elog(ERROR, "return type must be a row type");
		call->tuple_desc = BlessTupleDesc(call->tuple_desc);
		slots = palloc(sizeof(shared->slots));
		LWLockAcquire(&shared->lock, LW_SHARED);
		for (int i = 0; i < MAX_SLOTS; i++)
		{
			if (!is_free(&shared->slots[i], now))
				slots[call->max_calls++] = shared->slots[i];
		}
		LWLockRelease(&shared->lock);
		call->user_fctx = slots;
		MemoryContextSwitchTo(old);
	}
	call = SRF_PERCALL_SETUP();
	slots = call->user_fctx;
	if (call->call_cntr < call->max_calls)
	{
		const McSlot *slot = &slots[call->call_cntr];
		bool held = slot->holder.pid != 0;
		Datum values[3] = {CStringGetTextDatum(slot->slot_user), Int32GetDatum(slot->holder.pid),
						   TimestampTzGetDatum(slot->expires)};
		bool nulls[3] = {false, !held, held};

		SRF_RETURN_NEXT(call, HeapTupleGetDatum(heap_form_tuple(call->tuple_desc, values, nulls)));
	}
	SRF_RETURN_DONE(call);
}

/* ---------- engines ---------- */

static McEngineEntry *
find_engine(Oid database)
{
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		McEngineEntry *engine = &shared->engines[i];

		if (engine->database == database && is_alive(&engine->process))
			return engine;
	}
	return NULL;
}

void
mc_engine_register(bool is_worker)
{
	McEngineEntry *entry = NULL;

	join();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENGINES && entry == NULL; i++)
	{
		if (is_me(&shared->engines[i].process) || !is_alive(&shared->engines[i].process))
			entry = &shared->engines[i];
	}
	if (entry != NULL)
	{
		entry->process = myself();
		entry->database = MyDatabaseId;
		entry->is_worker = is_worker;
	}
	LWLockRelease(&shared->lock);
	if (entry == NULL)
		ereport(ERROR, (errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						errmsg("mailchimp_sync works in %d databases already", MAX_ENGINES),
						errhint("Stop it in another database with mc_stop_worker().")));
}

void
mc_engine_unregister(void)
{
	attach();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	for (int i = 0; i < MAX_ENGINES; i++)
	{
		if (is_me(&shared->engines[i].process))
			shared->engines[i].process.pid = 0;
	}
	LWLockRelease(&shared->lock);
}

int
mc_engine_pid(Oid database, bool *is_worker)
{
	McEngineEntry *engine;
	int pid = 0;

	attach();
	LWLockAcquire(&shared->lock, LW_SHARED);
	engine = find_engine(database);
	if (engine != NULL)
	{
		pid = engine->process.pid;
		*is_worker = engine->is_worker;
	}
	LWLockRelease(&shared->lock);
	return pid;
}

void
mc_engine_wake(Oid database)
{
	McEngineEntry *engine;

	if (!try_attach())
		return;
	LWLockAcquire(&shared->lock, LW_SHARED);
	engine = find_engine(database);
	if (engine != NULL)
		wake(&engine->process);
	LWLockRelease(&shared->lock);
}

void
mc_launcher_register(void)
{
	join();
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->launcher = myself();
	LWLockRelease(&shared->lock);
}

/* Somebody wants a worker to be started now. */
void
mc_launcher_wake(void)
{
	if (!try_attach())
		return;
	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	shared->launcher_asked = true;
	wake(&shared->launcher);
	LWLockRelease(&shared->lock);
}

bool
mc_launcher_asked(void)
{
	bool asked;

	LWLockAcquire(&shared->lock, LW_EXCLUSIVE);
	asked = shared->launcher_asked;
	shared->launcher_asked = false;
	LWLockRelease(&shared->lock);
	return asked;
}
