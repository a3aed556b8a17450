/*-------------------------------------------------------------------------
 *
 * event.c
 *	  Triggers on the tables of the CRM: they note that rows changed, no more.
 *
 * The tables are other people's, so a trigger never makes a statement fail or
 * wait for our reasons (N17). It evaluates nothing that somebody registered; it
 * finds columns by their names at run time, so that a renamed or dropped column
 * costs us a comparison and the writer nothing; it only inserts rows, into a
 * table without any unique key besides a sequence's number, so that two
 * writers never meet there, whatever their isolation level.
 *
 * A trigger is a statement's, with its transition tables. The rows before and
 * after an UPDATE come in the same order and are compared in pairs; where
 * their numbers differ nobody knows the pairs, and every row counts as changed.
 *
 * Only the columns that lead to the contact are stored, as text made by
 * their output functions under settings that do not depend on the session.
 * The engine reads them back as the source's owner. What cannot be stored
 * (a column that is gone, a value of a megabyte) becomes one event that
 * says "anything of this relation".
 *
 * The engine is woken when the transaction has committed, by one callback per
 * process. A prepared transaction commits in a process that knows nothing of
 * it; there the engine's own look every minute has to do.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/datum.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "compat.h"
#include "mailchimp_sync.h"
#include "slot.h"

/* One INSERT stores as many events at most, and as many bytes of rows (plus one row) */
#define CHUNK_ROWS 1000
#define CHUNK_BYTES (4 * 1024 * 1024)

/* No key is that long; a row with such a value is not stored */
#define MAX_VALUE_BYTES (1024 * 1024)

/* The trigger's arguments: these, the stored columns, the other columns that matter */
#define ARG_SOURCE_ID 0
#define ARG_RELATION_ID 1
#define ARG_STORED 2 /* how many names */
#define ARG_MAPPED 3 /* how many names; -1: every column matters */
#define ARG_NAMES 4

typedef struct StoredColumn
{
	AttrNumber attnum;
	const char *name;
	FmgrInfo output;
	bool is_jsonb; /* stored as it is: only jsonb_in() would read a string as one */
} StoredColumn;

/* What one firing has to do and has gathered */
typedef struct Note
{
	TriggerData *trigger;
	TupleDesc desc;
	int nstored;
	StoredColumn *stored;
	int ncompared;
	AttrNumber *compared; /* a change of these counts */
	bool all;			  /* one is missing: every row counts as changed */
	bool unnamed;		  /* some row cannot be stored */
	MemoryContext chunk;
	int nrows;
	Size nbytes;
	Datum old_rows[CHUNK_ROWS];
	bool old_nulls[CHUNK_ROWS];
	Datum new_rows[CHUNK_ROWS];
	bool new_nulls[CHUNK_ROWS];
} Note;

static bool wake_pending = false;

PG_FUNCTION_INFO_V1(mc_note_change);
PG_FUNCTION_INFO_V1(mc_wake);
PG_FUNCTION_INFO_V1(mc_depend_on_extension);

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

/* ---- storing events ---- */

static Datum
text_array(Datum *values, bool *nulls, int n)
{
	int lower = 1;

	return PointerGetDatum(
		construct_md_array(values, nulls, 1, &n, &lower, TEXTOID, -1, false, TYPALIGN_INT));
}

/*
 * The current user has no rights on the table of events: this runs as the extension's
 * owner. An error leaves it to the abort to go back.
 */
static void
insert_events(int32 source_id, int32 relation_id, Datum old_rows, Datum new_rows)
{
	static SPIPlanPtr plan = NULL;
	Datum values[4];
	McIdentity saved;

	mc_become_owner(&saved);
	SPI_connect();
	if (plan == NULL)
	{
		Oid types[4] = {INT4OID, INT4OID, TEXTARRAYOID, TEXTARRAYOID};
		SPIPlanPtr fresh = SPI_prepare(
			"INSERT INTO mailchimp_sync.event (source_id, relation_id, old_row, new_row)"
			" SELECT $1, $2, r.old_row::pg_catalog.jsonb, r.new_row::pg_catalog.jsonb"
			" FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4)) AS r(old_row, new_row)",
			4, types);

		if (fresh == NULL || SPI_keepplan(fresh) != 0)
			elog(ERROR, "could not prepare the insertion of events: %s",
				 SPI_result_code_string(SPI_result));
		plan = fresh;
	}
	values[0] = Int32GetDatum(source_id);
	values[1] = Int32GetDatum(relation_id);
	values[2] = old_rows;
	values[3] = new_rows;
	if (SPI_execute_plan(plan, values, NULL, false, 0) != SPI_OK_INSERT)
		elog(ERROR, "could not insert events: %s", SPI_result_code_string(SPI_result));
	SPI_finish();
	mc_restore(&saved);
	mc_wake_at_commit();
}

static int32
int_argument(const Note *note, int i)
{
	return pg_strtoint32(note->trigger->tg_trigger->tgargs[i]);
}

static void
flush_rows(Note *note)
{
	MemoryContext context;

	if (note->nrows == 0)
		return;
	context = MemoryContextSwitchTo(note->chunk);
	insert_events(int_argument(note, ARG_SOURCE_ID), int_argument(note, ARG_RELATION_ID),
				  text_array(note->old_rows, note->old_nulls, note->nrows),
				  text_array(note->new_rows, note->new_nulls, note->nrows));
	MemoryContextSwitchTo(context);
	MemoryContextReset(note->chunk);
	note->nrows = 0;
	note->nbytes = 0;
}

/* An event without rows: anything of this relation may differ */
static void
insert_unnamed(const Note *note)
{
	Datum nothing = (Datum) 0;
	bool is_null = true;

	insert_events(int_argument(note, ARG_SOURCE_ID), int_argument(note, ARG_RELATION_ID),
				  text_array(&nothing, &is_null, 1), text_array(&nothing, &is_null, 1));
}

/* The stored columns of a row as JSON; false where a value is too long */
static bool
stored_row(Note *note, TupleTableSlot *slot, Datum *row)
{
	StringInfoData json;

	initStringInfo(&json);
	appendStringInfoChar(&json, '{');
	for (int i = 0; i < note->nstored; i++)
	{
		StoredColumn *column = &note->stored[i];
		bool is_null;
		Datum value = slot_getattr(slot, column->attnum, &is_null);
		char *text;

		if (i > 0)
			appendStringInfoChar(&json, ',');
		escape_json(&json, column->name);
		appendStringInfoChar(&json, ':');
		if (is_null)
		{
			appendStringInfoString(&json, "null");
			continue;
		}
		text = OutputFunctionCall(&column->output, value);
		if (strlen(text) > MAX_VALUE_BYTES)
			return false;
		if (column->is_jsonb)
			appendStringInfoString(&json, text);
		else
			escape_json(&json, text);
	}
	appendStringInfoChar(&json, '}');
	note->nbytes += json.len;
	*row = PointerGetDatum(cstring_to_text_with_len(json.data, json.len));
	return true;
}

/* Takes a row before and a row after, one of which may be missing, into the chunk */
static void
take_rows(Note *note, TupleTableSlot *old_slot, TupleTableSlot *new_slot)
{
	MemoryContext context = MemoryContextSwitchTo(note->chunk);
	int n = note->nrows;

	note->old_nulls[n] = old_slot == NULL;
	note->new_nulls[n] = new_slot == NULL;
	if ((old_slot == NULL || stored_row(note, old_slot, &note->old_rows[n])) &&
		(new_slot == NULL || stored_row(note, new_slot, &note->new_rows[n])))
		note->nrows++;
	else
		note->unnamed = true;
	MemoryContextSwitchTo(context);
	if (note->nrows == CHUNK_ROWS || note->nbytes >= CHUNK_BYTES)
		flush_rows(note);
}

/* ---- comparing ---- */

/*
 * Equal images are equal values. Unequal images of equal values make an event
 * for nothing, which the engine finds out. A value out of line that an UPDATE did
 * not touch keeps its pointer, and is not fetched.
 */
static bool
same_value(Datum a, Datum b, const FormData_pg_attribute *attribute)
{
	if (attribute->attlen == -1 && VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(a)) &&
		VARATT_IS_EXTERNAL_ONDISK(DatumGetPointer(b)) &&
		memcmp(DatumGetPointer(a), DatumGetPointer(b), VARSIZE_EXTERNAL(DatumGetPointer(a))) == 0)
		return true;
	return datum_image_eq(a, b, attribute->attbyval, attribute->attlen);
}

static bool
same_column(const Note *note, TupleTableSlot *a, TupleTableSlot *b, AttrNumber attnum)
{
	bool a_null;
	bool b_null;
	Datum a_value = slot_getattr(a, attnum, &a_null);
	Datum b_value = slot_getattr(b, attnum, &b_null);

	if (a_null || b_null)
		return a_null && b_null;
	return same_value(a_value, b_value, TupleDescAttr(note->desc, attnum - 1));
}

static bool
same_row(const Note *note, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < note->ncompared; i++)
		if (!same_column(note, a, b, note->compared[i]))
			return false;
	return true;
}

/* Do both rows lead to the same contacts? Then one of them is enough. */
static bool
same_stored(const Note *note, TupleTableSlot *a, TupleTableSlot *b)
{
	for (int i = 0; i < note->nstored; i++)
		if (!same_column(note, a, b, note->stored[i].attnum))
			return false;
	return true;
}

/* ---- the transition tables ---- */

/* A read pointer of our own: other triggers of the statement read there too */
static TupleTableSlot *
open_rows(Note *note, Tuplestorestate *rows, int *pointer)
{
	*pointer = tuplestore_alloc_read_pointer(rows, EXEC_FLAG_REWIND);
	tuplestore_select_read_pointer(rows, *pointer);
	tuplestore_rescan(rows);
	return MakeSingleTupleTableSlot(note->desc, &TTSOpsMinimalTuple);
}

static bool
next_row(Tuplestorestate *rows, int pointer, TupleTableSlot *slot)
{
	tuplestore_select_read_pointer(rows, pointer);
	return tuplestore_gettupleslot(rows, true, false, slot);
}

static void
note_rows(Note *note, Tuplestorestate *rows, bool old)
{
	int pointer;
	TupleTableSlot *slot = open_rows(note, rows, &pointer);

	while (!note->unnamed && next_row(rows, pointer, slot))
		take_rows(note, old ? slot : NULL, old ? NULL : slot);
	ExecDropSingleTupleTableSlot(slot);
}

static void
note_pairs(Note *note, Tuplestorestate *old_rows, Tuplestorestate *new_rows)
{
	int old_pointer;
	int new_pointer;
	TupleTableSlot *old_slot = open_rows(note, old_rows, &old_pointer);
	TupleTableSlot *new_slot = open_rows(note, new_rows, &new_pointer);

	while (!note->unnamed && next_row(old_rows, old_pointer, old_slot) &&
		   next_row(new_rows, new_pointer, new_slot))
		if (note->all || !same_row(note, old_slot, new_slot))
			take_rows(note, same_stored(note, old_slot, new_slot) ? NULL : old_slot, new_slot);
	ExecDropSingleTupleTableSlot(old_slot);
	ExecDropSingleTupleTableSlot(new_slot);
}

/*
 * Values need the same text in every session; most sessions have the settings
 * for that anyway. Undone by AtEOXact_GUC() with the result.
 */
static int
pin_output(void)
{
	int nest_level = NewGUCNestLevel();

#define PIN(name, value)                                                                        \
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, \
							 false)

	if (DateStyle != USE_ISO_DATES)
		PIN("datestyle", "ISO");
	if (IntervalStyle != INTSTYLE_POSTGRES)
		PIN("intervalstyle", "postgres");
	if (extra_float_digits < 1)
		PIN("extra_float_digits", "1");
	if (bytea_output != BYTEA_OUTPUT_HEX)
		PIN("bytea_output", "hex");
#undef PIN
	return nest_level;
}

/* ---- the arguments, against the table as it is now ---- */

static AttrNumber
find_column(TupleDesc desc, const char *name)
{
	for (int i = 0; i < desc->natts; i++)
	{
		const FormData_pg_attribute *attribute = TupleDescAttr(desc, i);

		if (!attribute->attisdropped && strcmp(NameStr(attribute->attname), name) == 0)
			return attribute->attnum;
	}
	return InvalidAttrNumber;
}

static void
find_stored(Note *note, char **names)
{
	note->nstored = int_argument(note, ARG_STORED);
	note->stored = palloc0(sizeof(StoredColumn) * (note->nstored + 1));
	for (int i = 0; i < note->nstored; i++)
	{
		StoredColumn *column = &note->stored[i];
		Oid type;
		Oid output;
		bool is_varlena;

		column->name = names[i];
		column->attnum = find_column(note->desc, names[i]);
		if (column->attnum == InvalidAttrNumber)
		{
			note->unnamed = true;
			return;
		}
		type = TupleDescAttr(note->desc, column->attnum - 1)->atttypid;
		column->is_jsonb = getBaseType(type) == JSONBOID;
		getTypeOutputInfo(type, &output, &is_varlena);
		fmgr_info(output, &column->output);
	}
}

static void
find_compared(Note *note, char **names)
{
	int n = int_argument(note, ARG_MAPPED);
	bool every = n < 0;

	n = every ? note->desc->natts : n + note->nstored;
	note->compared = palloc(sizeof(AttrNumber) * (n + 1));
	for (int i = 0; i < n; i++)
	{
		AttrNumber attnum = every ? i + 1 : find_column(note->desc, names[i]);

		if (attnum == InvalidAttrNumber)
			note->all = true;
		else if (!TupleDescAttr(note->desc, attnum - 1)->attisdropped)
			note->compared[note->ncompared++] = attnum;
	}
}

static void
check_call(FunctionCallInfo fcinfo)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_FOR_STATEMENT(trigger->tg_event) ||
		!TRIGGER_FIRED_AFTER(trigger->tg_event) || trigger->tg_trigger->tgnargs < ARG_NAMES)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("note_change() is for the triggers that mc_add_source and mc_watch make")));
}

/* ---- entry points ---- */

Datum
mc_note_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger;
	Tuplestorestate *old_rows;
	Tuplestorestate *new_rows;
	int64 nold;
	int64 nnew;
	Note *note;
	int nest_level;

	check_call(fcinfo);
	trigger = (TriggerData *) fcinfo->context;
	old_rows = trigger->tg_oldtable;
	new_rows = trigger->tg_newtable;
	nold = old_rows ? tuplestore_tuple_count(old_rows) : 0;
	nnew = new_rows ? tuplestore_tuple_count(new_rows) : 0;
	if (nold + nnew == 0 && !TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event))
		return PointerGetDatum(NULL);

	note = palloc0(sizeof(Note));
	note->trigger = trigger;
	note->desc = RelationGetDescr(trigger->tg_relation);
	note->unnamed = TRIGGER_FIRED_BY_TRUNCATE(trigger->tg_event);
	note->chunk = AllocSetContextCreate(CurrentMemoryContext, "events", ALLOCSET_DEFAULT_SIZES);
	find_stored(note, trigger->tg_trigger->tgargs + ARG_NAMES);
	find_compared(note, trigger->tg_trigger->tgargs + ARG_NAMES);

	nest_level = pin_output();
	if (nold == nnew && nold > 0)
		note_pairs(note, old_rows, new_rows);
	else
	{
		if (nold > 0)
			note_rows(note, old_rows, true);
		if (nnew > 0)
			note_rows(note, new_rows, false);
	}
	AtEOXact_GUC(true, nest_level);
	flush_rows(note);
	if (note->unnamed)
		insert_unnamed(note);

	MemoryContextDelete(note->chunk);
	return PointerGetDatum(NULL);
}

/*
 * What ALTER TRIGGER ... DEPENDS ON EXTENSION records, without its lock against
 * readers: the caller has just made the trigger and holds the lock for that.
 */
Datum
mc_depend_on_extension(PG_FUNCTION_ARGS)
{
	Oid relation = PG_GETARG_OID(0);
	Name name = PG_GETARG_NAME(1);
	ObjectAddress trigger;
	ObjectAddress extension;

	ObjectAddressSet(trigger, TriggerRelationId, get_trigger_oid(relation, NameStr(*name), false));
	ObjectAddressSet(extension, ExtensionRelationId, mc_extension_oid(false));
	recordDependencyOn(&trigger, &extension, DEPENDENCY_AUTO_EXTENSION);
	PG_RETURN_VOID();
}
