# A table of the CRM that logical replication fills: without the setting "replica" its changes wait for the comparison, with
# it they are noted like any other, whatever the publisher does, in partitions too (R75, N5, N17).

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo', { lists => [ { name => 'Customers' }, { name => 'Parts' } ] });
my $node = McTest::Node->start('main', extension => 0, init => { allows_streaming => 'logical' });
$node->query('CREATE DATABASE publisher');
$node->query('CREATE DATABASE subscriber');
my $people = McPeople->new($node, $sim, db => 'subscriber', people => 0);

sub publish { return $node->query($_[0], db => 'publisher') }

publish("CREATE SCHEMA crm; CREATE TABLE crm.person (id integer PRIMARY KEY, first_name text, city text, email text, active boolean NOT NULL DEFAULT true);
	CREATE TABLE crm.part (id integer, region text, email text, PRIMARY KEY (id, region));
	CREATE PUBLICATION people FOR TABLE crm.person, crm.part;
	INSERT INTO crm.person SELECT i, 'Name' || i, 'Utrecht', 'p' || i || '\@crm.test' FROM generate_series(1, 3) i;
	INSERT INTO crm.part VALUES (1, 'nl', 'one'), (2, 'be', 'two')");
$people->ann("CREATE TABLE crm.part (id integer, region text, email text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
	CREATE TABLE crm.part_nl PARTITION OF crm.part FOR VALUES IN ('nl'); CREATE TABLE crm.part_be PARTITION OF crm.part FOR VALUES IN ('be');
	SELECT mc_add_source('part', 'crm.part', 'id', 'email')");

# Both databases are in one cluster, where CREATE SUBSCRIPTION cannot make the slot itself.
sub subscribe
{
	my $publisher = $node->connstr('publisher') =~ s/'/''/gr;
	publish("SELECT pg_create_logical_replication_slot('people', 'pgoutput')");
	$people->super("CREATE SUBSCRIPTION people CONNECTION '$publisher' PUBLICATION people WITH (create_slot = false, slot_name = 'people')");
	$people->wait_until("SELECT bool_and(srsubstate IN ('r', 's')) FROM pg_subscription_rel");
}

# Whatever was published up to now has been applied.
sub caught_up
{
	my $lsn = publish('SELECT pg_current_wal_lsn()');
	$node->wait_until("SELECT confirmed_flush_lsn >= '$lsn' FROM pg_replication_slots WHERE slot_name = 'people'", db => 'publisher');
}

sub run { $people->mia('CALL mc_run()') }
sub events { return $people->super('SELECT count(*) FROM mailchimp_sync.event') }
run();
is(events(), 0, 'nothing to do');
subscribe();
is($people->super('SELECT count(*) FROM crm.person'), 3, 'the subscription has brought three');
is(events(), 0, 'without the setting what replication copies is not noted');
$people->sync;
run();
is($people->names, '1=Name1 2=Name2 3=Name3', 'the comparison finds them');

# -----------------------------------------------------------------------------------------------------------------
# Without the setting
# -----------------------------------------------------------------------------------------------------------------

publish("UPDATE crm.person SET first_name = 'Late' WHERE id = 1; DELETE FROM crm.person WHERE id = 2; INSERT INTO crm.person VALUES (4, 'Name4', 'Delft', 'p4\@crm.test')");
caught_up();
is($people->wanted, '1=Late 3=Name3 4=Name4', 'changes are applied');
is(events(), 0, 'and not noted');
run();
is($people->names, '1=Name1 2=Name2 3=Name3', 'so nothing is sent');
$people->sync;
run();
is($people->names, $people->wanted, 'N5: until the comparison');

# -----------------------------------------------------------------------------------------------------------------
# With it
# -----------------------------------------------------------------------------------------------------------------

publish("UPDATE crm.person SET first_name = 'Unnoticed' WHERE id = 1");
caught_up();
$people->ann("SELECT mc_alter_source(source, '{\"replica\": true}') FROM mc_source");
is($people->ann("SELECT source, triggers, replica, state, detail FROM mc_source ORDER BY 1"), "part|auto|t|ok|\nperson|auto|t|ok|", 'the setting');
run();
is($people->names, $people->wanted, 'it compares once, since something may have been missed');
my $compared = $people->ann("SELECT compared_at FROM mc_audience");

publish("UPDATE crm.person SET first_name = 'Now' WHERE id = 1; DELETE FROM crm.person WHERE id = 3; INSERT INTO crm.person VALUES (5, 'Name5', 'Delft', 'p5\@crm.test');
	BEGIN; UPDATE crm.person SET city = 'Breda'; UPDATE crm.person SET id = 6, email = 'p6\@crm.test' WHERE id = 4; COMMIT;
	BEGIN; UPDATE crm.person SET first_name = 'No'; ROLLBACK");
caught_up();
run();
is($people->names, '1=Now 5=Name5 6=Name4', 'INSERT, UPDATE and DELETE arrive');
is(join(' ', map { $_->{merge_fields}{CITY} } $people->members), 'Breda Breda Breda', 'R75: with all that was changed');
is($people->ann("SELECT compared_at FROM mc_audience"), $compared, 'without a comparison');

publish("UPDATE crm.part SET email = 'x' WHERE id = 1");
caught_up();
is(events(), 1, 'a change in a partition of the subscriber');
publish("UPDATE crm.part SET region = 'be' WHERE id = 1");
caught_up();
is($people->super("SELECT new_row ->> 'id' FROM mailchimp_sync.event WHERE new_row IS NOT NULL ORDER BY event_id"), "1\n1", 'one that moves to another');
$people->ann("CREATE TABLE crm.part_de PARTITION OF crm.part FOR VALUES IN ('de')");
publish("INSERT INTO crm.part VALUES (3, 'de', 'three')");
caught_up();
is($people->super("SELECT new_row FROM mailchimp_sync.event ORDER BY event_id DESC LIMIT 1"), '{"id": "3"}', 'one that was made later');

# The worker is woken by the one who applies.
$people->ann('SELECT mc_start_worker()');
$people->wait_worker;
$people->wait_in_step;
publish("UPDATE crm.person SET first_name = 'Woken' WHERE id = 1");
McTest::poll('the change', sub { $people->names eq '1=Woken 5=Name5 6=Name4' });
pass('the worker sends it');
publish('TRUNCATE crm.person');
McTest::poll('TRUNCATE', sub { $people->names eq '' });
pass('TRUNCATE arrives');

# What a new subscription copies is noted, too.
$people->super('ALTER SUBSCRIPTION people DISABLE; ALTER SUBSCRIPTION people SET (slot_name = NONE); DROP SUBSCRIPTION people; TRUNCATE crm.part');
$node->wait_until("SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'people'");
publish("SELECT pg_drop_replication_slot('people'); INSERT INTO crm.person VALUES (7, 'Name7', 'Delft', 'p7\@crm.test')");
subscribe();
McTest::poll('the copy', sub { $people->names eq '7=Name7' });
pass('what a new subscription copies arrives');
$people->super('ALTER SUBSCRIPTION people DISABLE; ALTER SUBSCRIPTION people SET (slot_name = NONE); DROP SUBSCRIPTION people');

done_testing();
