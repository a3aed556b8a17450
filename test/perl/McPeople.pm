# A table of people in any database of a node, connected to the simulator: for tests of processes, which need several
# databases, servers and copies.
#
#   my $people = McPeople->new($node, $sim, db => 'one', people => 10);   # key, list: see below
#   $people->ann('SELECT ...');  $people->mia(...)                       # as admin, as marketer, in its database
#   $people->sync;                                                       # mc_sync_audience: from now on it is pushed
#   $people->names                                                       # at Mailchimp: "1=Name1 2=Name2"
#   $people->wait_in_step;                                               # at Mailchimp is what is in the table
#   $people->later(130);                                                 # our clock and Mailchimp's go on by so many seconds
#
# Person n has the address pn@crm.test. The one merge field besides FNAME, CITY, is not in the list yet.

package McPeople;

use strict;
use warnings;
use McTest;

sub new
{
	my ($class, $node, $sim, %options) = @_;
	my $self = bless { node => $node, sim => $sim, db => 'postgres', people => 3, key => 'demo-us1', list => 'Customers',
		%options }, $class;
	my $url = $sim->url;

	$self->super('CREATE EXTENSION IF NOT EXISTS mailchimp_sync');
	$node->role('ann', level => 'admin', db => $self->{db});
	$node->role('mia', level => 'marketer', db => $self->{db});
	$self->super("CREATE SERVER main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '$url');
		ALTER SERVER main OWNER TO ann;
		CREATE SCHEMA crm AUTHORIZATION ann");
	$self->ann("CREATE TABLE crm.person (id integer PRIMARY KEY, first_name text, city text, email text,
			active boolean NOT NULL DEFAULT true);
		INSERT INTO crm.person SELECT i, 'Name' || i, 'Utrecht', 'p' || i || '\@crm.test' FROM generate_series(1, $self->{people}) i;
		SELECT mc_connect('main', '$self->{key}');
		SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{\"FNAME\": \"first_name\", \"CITY\": \"city\"}');
		SELECT mc_create_audience('people', 'main', '$self->{list}', 'person', 'active')");
	$self->{list_id} = $self->ann("SELECT list_id FROM mc_audience WHERE audience = 'people'");
	return $self;
}

# The same in a copy of that database.
sub at { my ($self, %where) = @_; return bless { %$self, %where }, ref $self }

sub super { return $_[0]{node}->query($_[1], db => $_[0]{db}) }
sub ann { return $_[0]{node}->query($_[1], db => $_[0]{db}, as => 'ann') }
sub mia { return $_[0]{node}->query($_[1], db => $_[0]{db}, as => 'mia') }
sub wait_until { return $_[0]{node}->wait_until($_[1], db => $_[0]{db}) }

sub sync { $_[0]->mia("SELECT mc_sync_audience('people')") }

# Of the whole server, since its start by the test.
sub later
{
	my ($self, $seconds) = @_;
	$self->{node}->clock_ahead($self->{node}{later} += $seconds);
	$self->{sim}->post('/_sim/clock', { advance => $seconds });
}

# The members of the list that are subscribed, raw.
sub members
{
	my ($self) = @_;
	return grep { $_->{status} eq 'subscribed' } @{ $self->{sim}->get("/_sim/lists/$self->{list_id}/members")->{members} };
}

sub names
{
	my ($self) = @_;
	return join ' ', map { $_->[0] . '=' . $_->[1] } sort { $a->[0] <=> $b->[0] }
	  map { [ $_->{email_address} =~ /^p(\d+)[@+]/, $_->{merge_fields}{FNAME} ] } $self->members;
}

# The same as the table wants it; who opted out is not wanted.
sub wanted
{
	return $_[0]->super("SELECT coalesce(string_agg(id || '=' || first_name, ' ' ORDER BY id), '') FROM crm.person p
		WHERE active AND NOT EXISTS (SELECT FROM mc_group_member g WHERE g.source = 'person' AND g.contact_key = p.id::text)");
}

sub in_step
{
	my ($self) = @_;
	return $self->names eq $self->wanted;
}

# Until everything has arrived and the engine has nothing more to do; ghosts may be left.
sub wait_in_step
{
	my ($self) = @_;
	my $seen = '';
	eval { McTest::poll('it', sub { ($seen = $self->names) eq $self->wanted }); 1 }
	  or die "waited in vain for '" . $self->wanted . "' at Mailchimp, where there is '$seen': $@";
	$self->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.contact WHERE action IS NOT NULL)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.event)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight WHERE doubt_at IS NULL)');
}

# The process that works for its database: its pid, '' for none.
sub engine { return $_[0]->super('SELECT pid FROM mailchimp_sync.engine()') }

# The worker processes of its database, whether they work or wait.
sub workers
{
	my ($self) = @_;
	return $self->{node}->query("SELECT pid FROM pg_stat_activity
		WHERE backend_type = 'mailchimp_sync worker' AND datname = '$self->{db}' ORDER BY pid");
}

# Waits for a worker that works, other than that pid, and returns its pid.
sub wait_worker
{
	my ($self, $but) = @_;
	my $pid;
	McTest::poll("a worker in $self->{db}", sub {
		$pid = $self->super('SELECT pid FROM mailchimp_sync.engine() WHERE is_worker');
		$pid ne '' && $pid ne ($but // '');
	});
	return $pid;
}

1;
