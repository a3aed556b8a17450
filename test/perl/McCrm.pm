# A small CRM beside the simulator: owners and candidates, a source over them, an audience "people" of the list Customers.
#
#   my $crm = McCrm->start('main', candidates => 3);        # ann is admin and owns the tables, max marketer, rita reader
#   $crm->ann(...), $crm->max(...), $crm->rita(...)         # run SQL as them, die on an error
#   $crm->run;                                              # CALL mc_run() as max
#   $crm->status;                                           # 'in_sync 3': states of the audience that have contacts
#   $crm->state('1');                                       # state|detail of a contact
#   $crm->members;                                          # the list's members at Mailchimp by address
#   $crm->requests;                                         # 'POST /lists/{list_id} 200' ... since the last call, but for reading members
#   $crm->costs;                                            # how many of each, '2 POST /lists/{list_id}, ...', and removals of each tag, 't 2'
#   $crm->act('c1', 'tag', tag => 't');                     # somebody does that at Mailchimp to c1@crm.test
#   $crm->tags(1), $crm->segment('t');                      # tags of candidate 1 at Mailchimp 'a,b'; the segment of that name
#   $crm->later(130);                                       # our clock and Mailchimp's go on by so many seconds
#
# Candidate n has the address cn@crm.test, owner n % 2 + 1 and the tag gn%3.

package McCrm;

use strict;
use warnings;
use McTest;

our @source = (q{'{"FNAME": "first_name", "LNAME": "last_name", "OWNERNAME": "(SELECT o.name FROM crm.owner o WHERE o.id = owner_id)"}'},
	q{tags => 'groups'}, q{linked => 'linked'});

sub start
{
	my ($class, $name, %options) = @_;
	my $self = bless { sim => McTest::Simulator->start, since => 0, later => 0 }, $class;
	my $node = $self->{node} = McTest::Node->start($name, conf => $options{conf});
	my $candidates = $options{candidates} // 0;

	$self->{demo} = $self->{sim}->post('/_sim/demo', $options{demo} // {});
	$self->{list} = $self->{demo}{lists}[0]{id};
	$node->role('ann', level => 'admin');
	$node->role('max', level => 'marketer');
	$node->role('rita', level => 'reader');
	$node->query("CREATE SERVER main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint '" . $self->{sim}->url . "');
		ALTER SERVER main OWNER TO ann; CREATE SCHEMA crm AUTHORIZATION ann");
	$self->ann("SELECT mc_connect('main', 'demo-us1');
		CREATE TABLE crm.owner (id bigint PRIMARY KEY, name text);
		CREATE TABLE crm.candidate (id bigint PRIMARY KEY, first_name text, last_name text, email text,
			owner_id bigint, active boolean DEFAULT true, linked boolean DEFAULT true, groups text[]);
		CREATE INDEX ON crm.candidate (owner_id);
		INSERT INTO crm.owner VALUES (1, 'Ann Owner'), (2, 'Bob Owner');
		INSERT INTO crm.candidate SELECT g, 'F' || g, 'L' || g, 'c' || g || '\@crm.test', 1 + g % 2, true, true, ARRAY['g' || g % 3]
			FROM generate_series(1, $candidates) g");
	$self->define;
	$self->ann(q{SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id');
		SELECT mc_create_audience('people', 'main', 'Customers', 'candidate', 'active'} . ($options{audience} // '') . ')');
	$self->requests;
	return $self;
}

sub define { my ($self, @arguments) = @_; return $self->ann('SELECT mc_add_source(' . join(', ', q{'candidate'},
	q{'crm.candidate'}, q{'id'}, q{'email'}, @arguments ? @arguments : @source) . ')') }

sub ann { return $_[0]{node}->query($_[1], as => 'ann') }
sub max { return $_[0]{node}->query($_[1], as => 'max') }
sub rita { return $_[0]{node}->query($_[1], as => 'rita') }
sub run { return $_[0]->max('CALL mc_run()') }

# The first comparison, which switches the audience on, and all that follows from it.
sub sync { my ($self, $audience) = @_; $self->max(sprintf "SELECT mc_sync_audience('%s')", $audience // 'people'); $self->run }

sub status
{
	my ($self, $audience) = @_;
	return $self->rita(sprintf q{SELECT string_agg(s.key || ' ' || s.value, ' ' ORDER BY s.key)
		FROM mc_audience_status a, jsonb_each_text(to_jsonb(a) - 'audience' - 'contacts') s
		WHERE a.audience = '%s' AND s.value <> '0'}, $audience // 'people');
}

sub state { return $_[0]->rita("SELECT state, detail FROM mc_contact_state WHERE contact_key = '$_[1]' AND audience = 'people'") }

sub failure { return $_[0]->rita("SELECT work, email, title, detail, attempts, next_attempt_at IS NULL FROM mc_failure WHERE contact_key = '$_[1]'") }

sub members
{
	my ($self, $list) = @_;
	return map { $_->{email_address} => $_ } @{ $self->{sim}->get('/_sim/lists/' . ($list // $self->{list}) . '/members')->{members} };
}

sub member { my ($self, $email) = @_; my %all = $self->members; return $all{$email} // {} }

# What Mailchimp shows of one: status, first name, tags.
sub shown
{
	my ($self, $email) = @_;
	my $member = $self->member($email);
	return join '|', $member->{status} // 'none', $member->{merge_fields}{FNAME} // '', join(',', sort @{ $member->{tags} // [] });
}

sub journal
{
	my ($self) = @_;
	my @entries = $self->{sim}->journal(since => $self->{since});
	$self->{since} = $entries[-1]{n} if @entries;
	return @entries;
}

# Statuses are read and the account is looked at whatever happens.
sub by_itself { my ($request) = @_; return $request->{route} eq 'GET /lists/{list_id}/members' || McTest::is_refresh($request) }

sub requests
{
	my ($self) = @_;
	return join ', ', map { "$_->{route} " . ($_->{status} // '-') } grep { !by_itself($_) } $self->journal;
}

# How many members the requests that pushed since the last call carried.
sub pushed { my ($self) = @_; return join ' ', map { scalar @{ $_->{body}{members} } } grep { $_->{route} eq 'POST /lists/{list_id}' } $self->journal }

sub costs
{
	my ($self) = @_;
	my (%count, %tags);
	my %name = map { $_->{id} => $_->{name} } @{ $self->{sim}->get("/_sim/segments/$self->{list}")->{segments} };
	for my $request (grep { !by_itself($_) } $self->journal)
	{
		$count{ $request->{route} }++;
		$tags{ $name{$1} // 'gone' }++ if ref $request->{body} && $request->{body}{members_to_remove} && $request->{path} =~ /(\d+)$/;
	}
	return (join(', ', map { "$count{$_} $_" } sort keys %count), join(', ', map { "$_ $tags{$_}" } sort keys %tags));
}

sub act
{
	my ($self, $name, $action, %more) = @_;
	return $self->{sim}->post('/_sim/act', { list => $self->{list}, email => "$name\@crm.test", action => $action, %more });
}

sub tags { my ($self, $n) = @_; return join ',', sort @{ $self->member("c$n\@crm.test")->{tags} } }

sub segment
{
	my ($self, $name) = @_;
	return (grep { $_->{name} eq $name } @{ $self->{sim}->get("/_sim/segments/$self->{list}")->{segments} })[0];
}

sub setting
{
	my ($self, $name, $value) = @_;
	my $node = $self->{node};
	$node->query("ALTER SYSTEM SET mailchimp_sync.$name = '$value'");
	$node->query('SELECT pg_reload_conf()');
	$node->wait_until("SELECT current_setting('mailchimp_sync.$name')::text = '$value'");
}

sub later
{
	my ($self, $seconds) = @_;
	$self->{later} += $seconds;
	$self->{sim}->post('/_sim/clock', { advance => $seconds });
	$self->{node}->clock_ahead($self->{later});
}

1;
