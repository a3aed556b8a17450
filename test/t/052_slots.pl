# Requests to Mailchimp are counted over the whole server, for each Mailchimp user (design.md rule 1): the engines of two
# databases and the calls of people together never have more open than max_connections, and a call finds a free one.

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;

my $max = 4;

my $sim = McTest::Simulator->start;
my $account = $sim->post('/_sim/demo', { lists => [ { name => 'One' }, { name => 'Two' } ] });
# Another key of the same user: it is the user that Mailchimp counts.
$sim->post('/_sim/keys', { key => 'other-us1', login_id => $account->{login_id} });
my $node = McTest::Node->start('main', extension => 0, conf => <<CONF);
mailchimp_sync.databases = 'one, two'
mailchimp_sync.max_connections = $max
mailchimp_sync.batch_size = 5
CONF
$node->query("CREATE DATABASE $_") for qw(one two);
my $one = McPeople->new($node, $sim, db => 'one', list => 'One', people => 100);
my $two = McPeople->new($node, $sim, db => 'two', list => 'Two', people => 100, key => 'other-us1');
my $login = $account->{login_id};

sub most_open { return $sim->get('/_sim/open')->{users}{$login}{max} }

# Held by a process, and as ghosts.
sub slots { return $one->super('SELECT count(pid), count(expires) FROM mailchimp_sync.slot()') }

# Not at once: an engine takes a slot for the moment in which it looks what there is to do.
sub slots_become
{
	my ($wanted, $what) = @_;
	McTest::poll("slots $wanted, $what", sub { slots() eq $wanted });
	pass($what);
}

$_->wait_worker for $one, $two;
slots_become('0|0', 'no slot is in use');

# -----------------------------------------------------------------------------------------------------------------
# Bulk work of two databases alone
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/latency', { request_ms => 50 });
$sim->delete('/_sim/open');
$_->sync for $one, $two;
$_->wait_in_step for $one, $two;
is(most_open(), $max - 1, 'bulk work uses all slots but one, over two databases');
is(scalar($sim->journal(route => 'POST /lists/{list_id}')), 40, 'in batches');
is(scalar(grep { $_->{status} == 429 } $sim->journal), 0, 'and is never refused');

# -----------------------------------------------------------------------------------------------------------------
# ... with people who ask Mailchimp now, from both databases
# -----------------------------------------------------------------------------------------------------------------

$sim->delete('/_sim/open');
$_->ann("UPDATE crm.person SET first_name = 'New' || id") for $one, $two;
my @sessions = map { $node->session(db => $_, as => 'mia') } qw(one two one);
McTest::begin($_, "SELECT mc_refresh('main');") for @sessions;
$_->query('') for @sessions;
is(join('', map { $_->{stderr} =~ /ERROR/ ? $_->{stderr} : '' } @sessions), '', 'calls get through');
$_->wait_in_step for $one, $two;
cmp_ok(most_open(), '<=', $max, 'never more than all');

# mc_run takes part like a worker.
$two->ann('SELECT mc_stop_worker()');
McTest::poll('its end', sub { $two->workers eq '' });
$sim->delete('/_sim/open');
$_->ann("UPDATE crm.person SET first_name = 'Newer' || id") for $one, $two;
McTest::begin($sessions[1], 'CALL mc_run();');
McTest::begin($sessions[0], "SELECT mc_refresh('main');");
$_->query('') for @sessions[ 0, 1 ];
$_->wait_in_step for $one, $two;
cmp_ok(most_open(), '<=', $max, 'mc_run, a worker and a call: no more either');

# -----------------------------------------------------------------------------------------------------------------
# One is kept from bulk work, so that a person never waits for it
# -----------------------------------------------------------------------------------------------------------------

$sim->post('/_sim/latency', { request_ms => 0 });
$two->ann('SELECT mc_start_worker()');
$two->wait_worker;
$sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before', times => -1);
$one->ann("UPDATE crm.person SET first_name = 'Newest' || id");
$sim->wait_held($max - 1);
$two->ann("UPDATE crm.person SET first_name = 'Newest' || id WHERE id = 1");
$two->wait_until("SELECT action = 'update' FROM mailchimp_sync.contact WHERE contact_key = '1'");
slots_become($max - 1 . '|0', 'all slots of bulk work are taken');
is($one->super('SELECT count(DISTINCT slot_user) FROM mailchimp_sync.slot()'), 1, 'by one user');
$two->mia("SELECT mc_refresh('main')");
pass('a call goes through');

# Two calls at a time do not: the second waits for the first.
my $held = $sim->hold(method => 'GET', path => '^/$', when => 'before');
McTest::begin($sessions[0], "SELECT mc_refresh('main');");
$sim->wait_held($max);
McTest::begin($sessions[1], "SELECT mc_refresh('main');");
$node->wait_until("SELECT count(*) = 2 FROM pg_stat_activity WHERE query LIKE 'SELECT mc_refresh%' AND state = 'active' AND wait_event = 'Extension'");
is($sim->get('/_sim/open')->{users}{$login}{now}, $max, 'the call beyond the limit waits');
$sim->release(hold => $held);
$_->query('') for @sessions[ 0, 1 ];
is(join('', map { $_->{stderr} =~ /ERROR/ ? $_->{stderr} : '' } @sessions), '', 'and then goes through');

# -----------------------------------------------------------------------------------------------------------------
# What becomes of the slots of a process that ends; ghosts count
# -----------------------------------------------------------------------------------------------------------------

my $pid = $one->wait_worker;
$node->query("SELECT pg_terminate_backend($pid)");
McTest::poll('its end', sub { $node->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 });
is($one->super('SELECT count(expires) FROM mailchimp_sync.slot()'), $max - 1, 'the requests of a worker that is gone may still run: no moment at which others could take their slots');
$one->wait_worker($pid);
$one->wait_until("SELECT count(*) = @{[ $max - 1 ]} FROM mailchimp_sync.inflight WHERE doubt_at IS NOT NULL");
slots_become('0|' . ($max - 1), 'they count on');
$two->mia("SELECT mc_refresh('main')");
pass('a call has its slot still');
$sim->release;
McTest::poll('they land', sub { $sim->get('/_sim/open')->{users}{$login}{now} == 0 });
$pid = $one->wait_worker;
$node->query("SELECT pg_terminate_backend($pid)");
$one->wait_worker($pid);
$one->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE doubt_at IS NULL)');
slots_become('0|' . ($max - 1), 'another engine does not count them twice');
isnt($two->names, $two->wanted, 'the other database waits as well');
$one->later(140);
$_->wait_in_step for $one, $two;
slots_become('0|0', 'they end, and all goes on');
is($one->super('SELECT count(*) FROM mailchimp_sync.inflight'), 0, 'nothing is left over');

# A session that is terminated while it asks.
$held = $sim->hold(method => 'GET', path => '^/$', when => 'before');
my $asking = $sessions[0]->query('SELECT pg_backend_pid()');
McTest::begin($sessions[0], "SELECT mc_refresh('main');");
$sim->wait_held;
slots_become('1|0', 'a call has a slot');
$node->query("SELECT pg_terminate_backend($asking)");
McTest::poll('its end', sub { $node->query("SELECT count(*) FROM pg_stat_activity WHERE pid = $asking") == 0 });
slots_become('0|1', 'its request may still run: the slot stays taken for as long');
$one->later(140);
slots_become('0|0', 'and then is free');

$node->stop;
done_testing();
