/*-------------------------------------------------------------------------
 *
 * event.c
 *	  Rows of mailchimp_sync.event, from inside of other people's transactions;
 *	  and waking the engine when these commit.
 *
 * Who writes to a table of the CRM has no rights on ours, and each of their rows
 * waits for this one. So it is put there as the worker of a subscription puts
 * rows: without a query, whose start and end cost several times what the
 * row costs, and without taking on another role. There is no unique key besides
 * a number that nobody else can have, so two writers never meet here, whatever
 * their isolation level (N17).
 *
 * That number is made of the writer's transaction and counts within it. One of a sequence
 * would be what lastval() returns from then on, to a writer who asks for the key
 * of a row just inserted, and who may not even read our sequence.
 *
 * Columns are found by name: between the installation of a new library and
 * ALTER EXTENSION UPDATE the table is that of the former version.
 *
 * The engine is woken when the transaction has committed, by one callback per
 * process. A prepared transaction commits in a process that knows nothing of
 * it; there the engine's own look every minute has to do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "event.h"
#include "mailchimp_sync.h"
#include "slot.h"

#define EVENT_TABLE "event"

/* An event's number: so many bits count within the transaction, 40 are the transaction's. */
#define COUNT_BITS 23
#define MAX_COUNT (INT64CONST(1) << COUNT_BITS)

static bool wake_pending = false;

PG_FUNCTION_INFO_V1(mc_wake);
PG_FUNCTION_INFO_V1(mc_next_event_id);
PG_FUNCTION_INFO_V1(mc_event_horizon);

/* ---- waking the engine ---- */

static void
at_transaction_end(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_pending)
				mc_engine_wake(MyDatabaseId);
			wake_pending = false;
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_pending = false;
			break;
		default:
			break;
	}
}

void
mc_wake_at_commit(void)
{
	static bool registered = false;

	if (!registered)
	{
		RegisterXactCallback(at_transaction_end, NULL);
		registered = true;
	}
	wake_pending = true;
}

Datum
mc_wake(PG_FUNCTION_ARGS)
{
	mc_wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- numbers ---- */

static int64
first_number(FullTransactionId xid)
{
	return (int64) (U64FromFullTransactionId(xid) & (UINT64CONST(0x7fffffffffffffff) >> COUNT_BITS))
		<< COUNT_BITS;
}

/* How many numbers of this transaction are taken? Those of a subtransaction that was rolled back stay so. */
static int64 *
numbers_taken(void)
{
	static FullTransactionId owner;
	static int64 taken = 0;
	FullTransactionId xid = GetTopFullTransactionId();

	if (!FullTransactionIdEquals(xid, owner))
	{
		owner = xid;
		taken = 0;
	}
	return &taken;
}

static int64
next_number(void)
{
	int64 *taken = numbers_taken();

	if (*taken >= MAX_COUNT)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("too many events in one transaction")));
	return first_number(GetTopFullTransactionId()) + (*taken)++;
}

Datum
mc_next_event_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(next_number());
}

/* Every event that is visible by now has a lower number. */
Datum
mc_event_horizon(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(first_number(ReadNextFullTransactionId()));
}

/* ---- storing ---- */

static void
set_row(const char *json, Datum *value, bool *isnull)
{
	*isnull = json == NULL;
	if (json != NULL)
		*value = DirectFunctionCall1(jsonb_in, CStringGetDatum(json));
}

static void
fill_slot(TupleTableSlot *slot, int32 source_id, int32 relation_id, TimestampTz now,
		  const McEventRow *row)
{
	TupleDesc desc = slot->tts_tupleDescriptor;

	ExecStoreAllNullTuple(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		const char *name = NameStr(TupleDescAttr(desc, i)->attname);
		Datum *value = &slot->tts_values[i];
		bool *isnull = &slot->tts_isnull[i];

		if (strcmp(name, "event_id") == 0)
		{
			*value = Int64GetDatum(next_number());
			*isnull = false;
		}
		else if (strcmp(name, "source_id") == 0)
		{
			*value = Int32GetDatum(source_id);
			*isnull = false;
		}
		else if (strcmp(name, "relation_id") == 0)
		{
			*value = Int32GetDatum(relation_id);
			*isnull = false;
		}
		else if (strcmp(name, "happened_at") == 0)
		{
			*value = TimestampTzGetDatum(now);
			*isnull = false;
		}
		else if (strcmp(name, "now") == 0)
		{
			*value = BoolGetDatum(false);
			*isnull = false;
		}
		else if (strcmp(name, "old_row") == 0)
			set_row(row->old_row, value, isnull);
		else if (strcmp(name, "new_row") == 0)
			set_row(row->new_row, value, isnull);
	}
}

static void
insert_rows(Relation relation, int32 source_id, int32 relation_id, const McEventRow *rows,
			int nrows)
{
	EState *estate = CreateExecutorState();
	ResultRelInfo *target = makeNode(ResultRelInfo);
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsVirtual);
	TimestampTz now = mc_clock_transaction();
	MemoryContext context;

	InitResultRelInfo(target, relation, 0, NULL, 0);
	target->ri_TrigDesc = NULL;
	ExecOpenIndices(target, false);
	for (int i = 0; i < nrows; i++)
	{
		context = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
		fill_slot(slot, source_id, relation_id, now, &rows[i]);
		ExecSimpleRelationInsert(target, estate, slot);
		MemoryContextSwitchTo(context);
		ResetPerTupleExprContext(estate);
	}
	ExecCloseIndices(target);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/*
 * The schema is that of the trigger's function and not one that has its name: where ours was
 * renamed, that one is somebody else's, and so is what it calls a table of events.
 * A table that is missing must not make the write fail that we note. Nor must a
 * transaction that writes more rows than there are numbers: one event then stands for
 * all that follow.
 */
void
mc_store_events(Oid schema, int32 source_id, int32 relation_id, const McEventRow *rows, int nrows)
{
	Oid table = get_relname_relid(EVENT_TABLE, schema);
	McEventRow anything = {0};
	int64 left = MAX_COUNT - *numbers_taken();
	Relation relation;

	if (!OidIsValid(table) || left <= 0)
		return;
	if (nrows >= left)
	{
		*numbers_taken() = MAX_COUNT - 1;
		rows = &anything;
		nrows = 1;
	}
	relation = table_open(table, RowExclusiveLock);
	insert_rows(relation, source_id, relation_id, rows, nrows);
	table_close(relation, NoLock);
	mc_wake_at_commit();
}
